//! Stream ids and event names: checked strings, cheap to clone.

use std::fmt;
use std::sync::Arc;

use crate::limits::{EVENT_NAME_MAX_BYTES, STREAM_ID_MAX_BYTES};

/// Why a string is not a stream id or an event name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No bytes at all.
    #[error("{what} must not be empty")]
    Empty {
        /// Which word was given: `stream id` or `event name`.
        what: &'static str,
    },
    /// More bytes than the limit.
    #[error("{what} must be at most {limit} bytes, got {length}")]
    TooLong {
        /// Which word was given.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
        /// The length given, in bytes.
        length: usize,
    },
    /// A control character: it could not be printed or sent as a simple string.
    #[error("{what} must not contain control characters")]
    Control {
        /// Which word was given.
        what: &'static str,
    },
    /// The bytes are not UTF-8.
    #[error("{what} must be UTF-8")]
    NotUtf8 {
        /// Which word was given.
        what: &'static str,
    },
}

fn check(what: &'static str, limit: usize, bytes: &[u8]) -> Result<Arc<str>, BadName> {
    if bytes.is_empty() {
        return Err(BadName::Empty { what });
    }
    if bytes.len() > limit {
        return Err(BadName::TooLong { what, limit, length: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadName::NotUtf8 { what })?;
    // In one pass without an early end, as nearly every name is good ASCII.
    let (ascii, control) = bytes.iter().fold((true, false), |(ascii, control), byte| {
        (ascii & byte.is_ascii(), control | byte.is_ascii_control())
    });
    if control || (!ascii && text.chars().any(char::is_control)) {
        return Err(BadName::Control { what });
    }
    Ok(Arc::from(text))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and copies the text.
            ///
            /// # Errors
            /// When the text is empty, too long or has control characters.
            pub fn new(text: &str) -> Result<Self, BadName> {
                Self::from_bytes(text.as_bytes())
            }

            /// Checks and copies the bytes.
            ///
            /// # Errors
            /// As [`new`](Self::new), and when the bytes are not UTF-8.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadName> {
                check($what, $limit, bytes).map(Self)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = BadName;
            fn try_from(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
    };
}

name_type!(
    /// Id of a stream: 1 to 255 bytes of UTF-8 without control characters.
    StreamId,
    "stream id",
    STREAM_ID_MAX_BYTES
);
name_type!(
    /// Name of an event: 1 to 255 bytes of UTF-8 without control characters.
    EventName,
    "event name",
    EVENT_NAME_MAX_BYTES
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_in_bytes() {
        assert!(StreamId::new(&"a".repeat(255)).is_ok());
        assert!(matches!(
            StreamId::new(&"ä".repeat(128)),
            Err(BadName::TooLong { length: 256, .. })
        ));
    }

    #[test]
    fn empty_control_and_bytes_are_refused() {
        assert!(matches!(EventName::new(""), Err(BadName::Empty { .. })));
        assert!(matches!(EventName::new("a\r\n"), Err(BadName::Control { .. })));
        assert!(matches!(EventName::from_bytes(&[0xff]), Err(BadName::NotUtf8 { .. })));
    }
}

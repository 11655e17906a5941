//! What a writer expects of a stream before its append.

use std::fmt;

/// The condition an event puts on the latest version of its stream *before* the append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum ExpectedVersion {
    /// No condition.
    #[default]
    Any,
    /// The stream has at least one event.
    Exists,
    /// The stream has no event.
    Empty,
    /// The stream's latest version is exactly this.
    Exact(u64),
}

impl ExpectedVersion {
    /// Whether a stream whose latest version is `current` (`None` = no events) satisfies it.
    #[must_use]
    pub fn holds(self, current: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::Exists => current.is_some(),
            Self::Empty => current.is_none(),
            Self::Exact(version) => current == Some(version),
        }
    }

    /// Whether the condition names one state of the stream (`append.strict_versioning` wants it).
    #[must_use]
    pub fn is_strict(self) -> bool {
        matches!(self, Self::Empty | Self::Exact(_))
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Exists => f.write_str("exists"),
            Self::Empty => f.write_str("empty"),
            Self::Exact(version) => version.fmt(f),
        }
    }
}

/// A latest version as users read it: a number, or `empty`.
pub struct CurrentVersion(
    /// The latest version, `None` when the stream has no events.
    pub Option<u64>,
);

impl fmt::Display for CurrentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(version) => version.fmt(f),
            None => f.write_str("empty"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_as_documented() {
        assert!(ExpectedVersion::Any.holds(None));
        assert!(!ExpectedVersion::Exists.holds(None));
        assert!(ExpectedVersion::Empty.holds(None));
        assert!(ExpectedVersion::Exact(3).holds(Some(3)));
        assert!(!ExpectedVersion::Exact(u64::MAX).holds(Some(3)));
        assert!(!ExpectedVersion::Exact(0).holds(None));
    }
}

//! What a client can be told: plain values.

use std::fmt;
use std::time::Duration;

use actadb_model::limits::{PAGE_MAX_EVENTS, WINDOW_MAX};

/// The port that is meant when a URL names none.
const PORT: u16 = 9090;

/// How to connect, and how patient to be.
///
/// ```
/// use std::time::Duration;
/// use actadb_client::ClientOptions;
///
/// let options = ClientOptions::new("redis://db.example.org")
///     .password("secret")
///     .retry_timeout(Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    /// At least one.
    pub(crate) urls: Vec<String>,
    pub(crate) password: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) retry_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) page_size: usize,
    pub(crate) window: u32,
}

impl ClientOptions {
    /// Defaults for a server: `redis://[:password@]host[:port]`, or just `host[:port]`. The port is
    /// 9090 when none is given.
    ///
    /// Several nodes of a cluster are separated by commas (a comma in a password is `%2C`). The
    /// client talks to one of them at a time, the first one at first, and goes to the next when
    /// that cannot be reached, breaks off, or answers that it cannot now.
    #[must_use]
    pub fn new(urls: impl AsRef<str>) -> Self {
        Self {
            urls: urls.as_ref().split(',').map(|url| with_defaults(url.trim())).collect(),
            password: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            retry_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(15),
            page_size: 500,
            window: 1024,
        }
    }

    /// The server's `auth.password`. It goes before a password in the URL.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// How long one attempt to connect may take. 5 seconds by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait for the answer of one request before it counts as lost. 15 seconds by
    /// default; keep it above the server's `append.timeout_ms`.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// For how long what failed for a passing reason is tried again: `TRYAGAIN`, `UNCERTAIN`,
    /// `TIMEOUT`, a lost connection. 30 seconds by default; zero for one try only.
    ///
    /// No try begins later than this after the first one.
    #[must_use]
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.retry_timeout = timeout;
        self
    }

    /// After how long a silence a subscription asks whether its connection is still alive. 15
    /// seconds by default.
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// Events that a read fetches at a time, 1 to 10,000. 500 by default.
    #[must_use]
    pub fn page_size(mut self, events: usize) -> Self {
        self.page_size = events.clamp(1, PAGE_MAX_EVENTS);
        self
    }

    /// Events of a subscription that may be on their way or held here unread, 1 to 1,000,000: this
    /// bounds its memory, together with the size of the events. 1024 by default;
    /// [`Follow::window`](crate::Follow::window) is for one subscription.
    #[must_use]
    pub fn window(mut self, events: u32) -> Self {
        self.window = events.clamp(1, WINDOW_MAX);
        self
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor the URL, which may hold one.
        f.debug_struct("ClientOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("retry_timeout", &self.retry_timeout)
            .field("ping_interval", &self.ping_interval)
            .field("page_size", &self.page_size)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// The URL with the scheme and the port that were left out.
fn with_defaults(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    if scheme.contains("unix") {
        return url.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    // Colons inside the brackets of an IPv6 address are no port.
    if host.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
        return format!("{scheme}://{rest}");
    }
    format!("{scheme}://{authority}:{PORT}{path}")
}

#[cfg(test)]
mod tests {
    use super::with_defaults;

    #[test]
    fn what_a_url_leaves_out_is_put_in() {
        for (given, meant) in [
            ("localhost", "redis://localhost:9090"),
            ("localhost:1", "redis://localhost:1"),
            ("redis://:p@ss@db/0?x", "redis://:p@ss@db:9090/0?x"),
            ("redis://u:p@db:7", "redis://u:p@db:7"),
            ("redis://[::1]/", "redis://[::1]:9090/"),
            ("redis://[::1]:5", "redis://[::1]:5"),
            ("redis+unix:///run/x", "redis+unix:///run/x"),
        ] {
            assert_eq!(with_defaults(given), meant);
        }
    }
}

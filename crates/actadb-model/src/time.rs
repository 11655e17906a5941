//! Time as an argument: the cores never read a clock.

/// One reading of both clocks, taken by a driver when it delivers an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic nanoseconds since an arbitrary point; used for deadlines.
    pub mono_ns: u64,
    /// Nanoseconds since 1970-01-01 UTC; used for timestamps and ids. May jump.
    pub unix_ns: u64,
}

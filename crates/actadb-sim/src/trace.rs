//! What happened, a line per event. The same seed gives the same lines, byte for byte.

use std::fmt::{self, Write};

/// Where the lines go.
#[derive(Debug, Default)]
pub enum Trace {
    /// Nowhere.
    #[default]
    Off,
    /// Into memory.
    Kept(String),
    /// To the standard output, at once: the last line is there when a rule does not hold.
    Printed,
}

impl Trace {
    /// Notes what happened at a time.
    pub fn note(&mut self, now_ns: u64, what: fmt::Arguments<'_>) {
        let ms = now_ns as f64 / 1e6;
        match self {
            Self::Off => {}
            // Writing to a string does not fail.
            Self::Kept(text) => {
                let _ = writeln!(text, "{ms:>12.6} ms  {what}");
            }
            Self::Printed => println!("{ms:>12.6} ms  {what}"),
        }
    }

    /// The lines that were kept.
    #[must_use]
    pub fn kept(self) -> String {
        match self {
            Self::Kept(text) => text,
            Self::Off | Self::Printed => String::new(),
        }
    }
}

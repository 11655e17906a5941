//! What must hold of any bytes: one property per module, each `check(data)`, which panics when it
//! does not hold.
//!
//! The bytes are a [script](script::Script) of choices: some are given to the code as they are,
//! some say what to build and how to damage it. So one function serves a fuzzer, which knows only
//! bytes (`fuzz/`), and the property tests here, which run every time.
//!
//! | module | property |
//! |---|---|
//! | [`framer`] | requests do not depend on how bytes are cut, and are those of `redis-protocol` |
//! | [`command`] | what was parsed and is written again is parsed to the same; errors are a line |
//! | [`frame`] | frames are read back, any flipped bit is noticed, any bytes are survived |
//! | [`record`] | the same of records |
//! | [`recovery`] | a log opens to a prefix of what was written, goes on, opens again the same |
//! | [`sealed_index`] | a sealed index answers as the open one, or says that it is damaged |
//! | [`partition`] | appends are numbered without gaps and answered once, after their commit |

pub mod command;
pub mod frame;
pub mod framer;
pub mod partition;
pub mod record;
pub mod recovery;
pub mod script;
pub mod sealed_index;

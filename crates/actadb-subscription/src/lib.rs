//! One reader's subscription, as a pure core: where it stands, what it wants to see, how much of it
//! may be on its way, and what it has acknowledged.
//!
//! There is one path. The core asks for what comes next ([`Read`](message::Output::Read)), passes
//! on what its filter takes and its window allows, and when nothing is left it waits for one number
//! to move ([`Wait`](message::Output::Wait)). Live is a read that found nothing yet, so there is no
//! seam between history and live at which an event could be skipped, doubled or reordered.

pub mod core;
pub mod filter;
pub mod message;

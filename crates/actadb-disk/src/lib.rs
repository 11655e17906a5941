//! The only words the store has for a device.
//!
//! [`Disk`](disk::Disk) and [`DiskFile`](disk::DiskFile) are blocking contracts, small enough that
//! their meaning on a real device can be written down beside each method. They have two
//! implementers: [`OsDisk`](os::OsDisk), the operating system, and [`SimDisk`](sim::SimDisk), a
//! device in memory that forgets what was not synced, for every test of a crash.
//! [`handles`] keeps files open, but not too many; [`no_wait`] lets a thread read what the system
//! has in memory, and nothing else.
//!
//! Nothing here knows what a record is, and nothing here is async.

pub mod disk;
pub mod handles;
pub mod no_wait;
pub mod os;
pub mod sim;

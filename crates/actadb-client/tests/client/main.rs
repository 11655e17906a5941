//! The client against a real server in this process, over real sockets: directly, through a proxy
//! that cuts connections, and against a scripted server for what a healthy one never says.

mod appending;
mod cluster;
mod examples;
mod following;
mod git_projection;
mod reading;
mod scripted;
mod support;
mod under_cuts;

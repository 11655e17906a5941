//! The binary `actadb`.

use std::process::ExitCode;

use actadb_server::cli::{Cli, run};
use clap::Parser;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    run(Cli::parse())
}

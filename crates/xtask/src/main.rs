//! The workspace's own chores: `cargo xtask tidy | sim | clients | chaos | docker-dry`.

use std::process::ExitCode;

mod chaos;
mod clients;
mod dice;
mod docker_dry;
mod programs;
mod server_process;
mod sim;
mod tidy;

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy        style that a machine can check: arrows between crates, first lines, file lengths
  sim         simulated worlds: --seed N [--ops N] | --minutes M | --seeds N | --mistakes
  clients     the server with stock clients: redis-cli, redis-py, ioredis, node-redis; --seed N
  chaos       the server under SIGKILL and SIGSTOP, with failing, slow and full disks, and damage
  docker-dry  the commands of the Dockerfile, as a plain script";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("", &[][..]),
    };
    let done = match command {
        "tidy" => tidy::run(),
        "sim" => sim::run(rest),
        "clients" => clients::run(rest),
        "chaos" => chaos::run(rest),
        "docker-dry" => docker_dry::run(rest),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

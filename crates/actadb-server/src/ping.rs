//! `actadb ping`: does the server answer?

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::wire_client::WireClient;

/// Where and how long to try.
#[derive(Clone, Debug, clap::Args)]
pub struct PingArgs {
    /// Where the server listens [default: 127.0.0.1:9090]
    #[arg(long, alias = "client-address", value_name = "ADDRESS")]
    address: Option<String>,
    /// The password, if the server wants one; taken from ACTADB_AUTH__PASSWORD when not given, so
    /// that a health check need not show it
    #[arg(long)]
    password: Option<String>,
    /// How long to wait for the answer, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
}

/// Exit code 0 when the server answers PONG.
pub async fn run(args: PingArgs) -> ExitCode {
    let address = args.address.unwrap_or_else(|| "127.0.0.1:9090".to_owned());
    let patience = Duration::from_millis(args.timeout_ms.unwrap_or(5000));
    let password = args.password.or_else(|| std::env::var("ACTADB_AUTH__PASSWORD").ok());
    let start = Instant::now();
    let answer = tokio::time::timeout(patience, async {
        let mut client = WireClient::connect(&address, password.as_deref()).await?;
        client.call(&[b"PING"]).await
    });
    match answer.await {
        Ok(Ok(_)) => {
            println!("PONG from {address} in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_elapsed) => {
            eprintln!("no answer from {address} within {} ms", patience.as_millis());
            ExitCode::FAILURE
        }
    }
}

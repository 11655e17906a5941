//! Optimistic concurrency: read, decide, append what follows from it; if somebody else was faster,
//! do it again.
//!
//! `cargo run -p actadb-client --example optimistic_loop [redis://host:port]`

use actadb_client::{Client, Error, ExpectedVersion, Uuid};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Money {
    cents: i64,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:9090".into());
    let balance = run(&url).await?;
    println!("ten withdrawals of 30 from 100 leave {balance}");
    Ok(())
}

/// Ten clerks pay 30 each from an account of 100, at the same time.
pub(crate) async fn run(url: &str) -> Result<i64, Error> {
    let client = Client::connect(url).await?;
    let account = format!("account-{}", Uuid::new_v4());
    client
        .append_json(&account, "Deposited", ExpectedVersion::Empty, &Money { cents: 100 })
        .await?;
    let clerks: Vec<_> = (0..10)
        .map(|_| {
            let (client, account) = (client.clone(), account.clone());
            tokio::spawn(async move { withdraw(&client, &account, 30).await })
        })
        .collect();
    for clerk in clerks {
        clerk.await.expect("no clerk panics")?;
    }
    Ok(balance(&client, &account).await?.0)
}

/// Withdraws, if there is enough; answers whether it did.
async fn withdraw(client: &Client, account: &str, cents: i64) -> Result<bool, Error> {
    loop {
        let (balance, version) = balance(client, account).await?;
        if balance < cents {
            return Ok(false);
        }
        match client.append_json(account, "Withdrawn", version, &Money { cents }).await {
            Ok(_) => return Ok(true),
            // What was decided is out of date.
            Err(Error::WrongExpectedVersion { .. }) => continue,
            Err(error) => return Err(error),
        }
    }
}

/// The balance, and the version that it is true for.
async fn balance(client: &Client, account: &str) -> Result<(i64, ExpectedVersion), Error> {
    let (mut balance, mut version) = (0, ExpectedVersion::Empty);
    let mut events = client.stream(account, ..);
    while let Some(event) = events.next().await {
        let event = event?;
        let Money { cents } = event.payload_json()?;
        balance += if event.name == "Deposited" { cents } else { -cents };
        version = ExpectedVersion::Exact(event.version);
    }
    Ok((balance, version))
}

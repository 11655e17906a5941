//! Appends two events, reads them back, and follows the stream.
//!
//! `cargo run -p actadb-client --example quick_start [redis://host:port]`

use actadb_client::{Client, Error, ExpectedVersion, Follow, NewEvent, Uuid};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Money {
    cents: i64,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:9090".into());
    run(&url).await
}

pub(crate) async fn run(url: &str) -> Result<(), Error> {
    let client = Client::connect(url).await?;
    let account = format!("account-{}", Uuid::new_v4());

    // The first event: there must be none before it.
    let opened = NewEvent::new(&account, "Opened").expect(ExpectedVersion::Empty);
    let opened = client.append(opened).await?;
    let expected = ExpectedVersion::Exact(opened.version);
    client.append_json(&account, "Deposited", expected, &Money { cents: 500 }).await?;

    // All events, or some of them, oldest first or newest first.
    let mut events = client.stream(&account, ..).backwards();
    while let Some(event) = events.next().await {
        let event = event?;
        println!("{} {} of {}", event.version, event.name, event.stream);
    }

    // History first, then what is appended from now on; over every broken connection.
    let mut subscription = client.subscribe(Follow::stream(&account).from_start()).await?;
    while let Some(delivery) = subscription.next().await {
        let Some(event) = delivery?.into_event() else { continue };
        if event.name == "Deposited" {
            println!("deposited {} cents", event.payload_json::<Money>()?.cents);
            break;
        }
    }
    Ok(())
}

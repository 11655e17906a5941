//! The embedded API in one screen: `cargo run --package actadb --example embedded`.

use actadb::database::Database;
use actadb::model::names::{EventName, StreamId};
use actadb::model::outcome::{AppendError, Refusal};
use actadb::model::transaction::{NewEvent, Transaction};
use actadb::model::version::ExpectedVersion;
use actadb::reads::ReadStream;
use actadb::subscriptions::{From, Notice, Subscribe, Topics};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("actadb-example-{}", std::process::id()));
    let database = Database::open(&dir).await?;
    let account = StreamId::new("account-1")?;
    let event = |name: &str| -> Result<NewEvent, Box<dyn std::error::Error>> {
        Ok(NewEvent::new(account.clone(), EventName::new(name)?))
    };

    // The first event of a new stream: `Empty` makes sure that nobody else opens the account.
    let opened = event("Opened")?.expected(ExpectedVersion::Empty).payload(r#"{"owner":"Ada"}"#);
    let appended = database.append(Transaction::single(opened)?).await?;
    println!("opened at version {}", appended.events[0].version);

    // Several events, all or nothing.
    let key = appended.partition_key;
    let moves = vec![event("Deposited")?.payload("100"), event("Withdrawn")?.payload("30")];
    let appended = database.append(Transaction::new(key, moves)?).await?;
    println!("two moves from sequence {} on", appended.first_sequence);

    // Somebody who still believes in version 0 is told where the stream is.
    let late = event("Closed")?.expected(ExpectedVersion::Exact(0));
    match database.append(Transaction::single(late)?).await {
        Err(AppendError::Refused(Refusal::WrongVersion { current, .. })) => {
            println!("refused: the stream is at version {current:?}");
        }
        other => println!("unexpected: {other:?}"),
    }

    let page = database.read_stream(ReadStream::all(account.clone())).await?;
    for event in &page.events {
        println!(
            "{} {} {}",
            event.version(),
            event.name(),
            String::from_utf8_lossy(event.payload())
        );
    }

    // Follow the stream from its beginning: history first, then what is appended from now on.
    let follow = Subscribe::to(Topics::Streams(vec![(account.clone(), None)])).from(From::At(0));
    let mut subscription = database.subscribe(follow).await?;
    database.append(Transaction::single(event("Closed")?)?).await?;
    let mut closed = false;
    while !closed {
        let Ok(Notice::Events(deliveries)) = subscription.next().await else { break };
        for delivery in deliveries {
            println!("heard of {} at cursor {}", delivery.event.name(), delivery.cursor);
            closed = delivery.event.name() == "Closed";
        }
    }
    database.close().await;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

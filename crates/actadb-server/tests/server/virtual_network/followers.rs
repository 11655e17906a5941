//! Clients that follow all partitions, and go on where they were on another node.

use std::collections::BTreeMap;
use std::time::Duration;

use actadb_server::wire_client::{Value, WireEvent};
use tokio::time::sleep;

use super::Shared;
use super::client::Client;

const WINDOW: &str = "64";
/// A node that says nothing for so long is left: it may be cut off from the others.
const SILENCE: Duration = Duration::from_secs(3);
/// And one that talks is left after so many events, now and then.
const LEFT_AFTER: u64 = 200;

/// The next sequence of each partition.
type Positions = BTreeMap<u64, u64>;

pub(super) async fn follow(follower: usize, book: Shared) -> turmoil::Result {
    let (mut next, mut node) = (Positions::new(), follower);
    while !is_done(&next, &book) {
        if let Ok(mut client) = Client::connect(node).await {
            // However it ends, it goes on elsewhere.
            let _ = subscribe(&mut client, &mut next, &book).await;
            book.borrow_mut().moves += 1;
        }
        node += 1;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn is_done(next: &Positions, book: &Shared) -> bool {
    book.borrow().counts.as_ref() == Some(next)
}

/// Follows on one node until that ends or it is time to leave.
async fn subscribe(client: &mut Client, next: &mut Positions, book: &Shared) -> Result<(), String> {
    let from: Vec<String> = next.iter().map(|(partition, n)| format!("{partition}={n}")).collect();
    let mut words = vec!["EPSUB", "*", "FROM", "MAP"];
    words.extend(from.iter().map(String::as_str));
    if from.is_empty() {
        words.truncate(2);
        words.extend(["FROM", "0"]);
    } else {
        words.extend(["DEFAULT", "0"]);
    }
    words.extend(["WINDOW", WINDOW]);
    let told = client.call(&words).await?;
    let id = told.text().ok_or("no subscription")?.to_owned();
    let (mut acknowledged, mut seen) = (0, 0);
    while seen < LEFT_AFTER && !is_done(next, book) {
        let Value::Push(parts) = client.next(SILENCE).await? else { continue };
        let [kind, subscription, cursor, event] = &parts[..] else {
            return Err(format!("it ended: {parts:?}"));
        };
        if kind.text() != Some("message") {
            return Err(format!("it ended: {parts:?}"));
        }
        assert_eq!(subscription.text(), Some(id.as_str()));
        let event = WireEvent::from_value(event).expect("an event");
        let place = next.entry(event.partition).or_default();
        assert_eq!(event.sequence, *place, "partition {}: no gap, no double", event.partition);
        *place += 1;
        seen += 1;
        let what = (event.stream, event.version);
        {
            let seen = &mut book.borrow_mut().seen;
            let before = seen.entry((event.partition, event.sequence)).or_insert(what.clone());
            assert_eq!(*before, what, "every follower sees the same");
        }
        let cursor = cursor.number().ok_or("no cursor")?;
        if cursor >= acknowledged + 16 {
            acknowledged = cursor;
            client.send(&["EACK", &id, &cursor.to_string()]).await?;
        }
    }
    Ok(())
}

//! A worked example with real data: the history of a git repository, imported with
//! `actadb import` (a stream per author, an event per commit), becomes a table in SQLite: commits
//! and changed lines per author and week.
//!
//! The checkpoint is saved in the same SQLite transaction as the numbers. So the projection can be
//! killed at any moment: what was committed knows how far it goes.
//!
//! `cargo run -p actadb-client --example git_projection [redis://host:port] [weeks.db]`

use std::error::Error;
use std::path::Path;

use actadb_client::{Checkpoint, Client, Delivery, Event, Follow};
use rusqlite::{Connection, Transaction, params};
use serde::Deserialize;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS weeks (
        author TEXT, monday TEXT, commits INTEGER, lines INTEGER, PRIMARY KEY (author, monday)
    );
    CREATE TABLE IF NOT EXISTS checkpoint (source TEXT PRIMARY KEY, next INTEGER);
";

/// The payload of a commit, as far as it is of interest here.
#[derive(Deserialize)]
struct Commit {
    #[serde(default)]
    insertions: u64,
    #[serde(default)]
    deletions: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "redis://127.0.0.1:9090".into());
    let file = arguments.next().unwrap_or_else(|| "weeks.db".into());
    run(&url, Path::new(&file)).await
}

/// Projects up to what is there now. A service would not stop.
pub(crate) async fn run(url: &str, file: &Path) -> Result<(), Box<dyn Error>> {
    let mut database = Connection::open(file)?;
    database.execute_batch(SCHEMA)?;

    let client = Client::connect(url).await?;
    let everything = Follow::all().from_checkpoint(checkpoint(&database)?);
    let latest = client.latest(&everything).await?;
    let mut subscription = client.subscribe(everything).await?;
    while !subscription.checkpoint().reaches(&latest) {
        let Some(delivery) = subscription.next().await else { break };
        let delivery = delivery?;
        let transaction = database.transaction()?;
        if let Some(event) = delivery.event()
            && let Some(author) = event.stream.strip_prefix("author-")
        {
            count(&transaction, author, event)?;
        }
        save(&transaction, &delivery)?;
        transaction.commit()?;
    }
    Ok(())
}

fn checkpoint(database: &Connection) -> rusqlite::Result<Checkpoint> {
    let mut rows = database.prepare("SELECT source, next FROM checkpoint")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| row.map(|(source, next)| (source, next as u64))).collect()
}

fn save(transaction: &Transaction<'_>, delivery: &Delivery) -> rusqlite::Result<()> {
    let upsert = "INSERT INTO checkpoint VALUES (?1, ?2)
        ON CONFLICT (source) DO UPDATE SET next = excluded.next";
    for (source, next) in delivery.moved() {
        transaction.execute(upsert, params![source, *next as i64])?;
    }
    Ok(())
}

fn count(transaction: &Transaction<'_>, author: &str, event: &Event) -> Result<(), Box<dyn Error>> {
    let Commit { insertions, deletions } = event.payload_json()?;
    // The Monday on or before the commit.
    let upsert = "INSERT INTO weeks
        VALUES (?1, date(?2 / 1000, 'unixepoch', '-6 days', 'weekday 1'), 1, ?3)
        ON CONFLICT (author, monday) DO UPDATE
        SET commits = commits + 1, lines = lines + excluded.lines";
    let (time, lines) = (event.timestamp_ms as i64, insertions.saturating_add(deletions) as i64);
    transaction.execute(upsert, params![author, time, lines])?;
    Ok(())
}

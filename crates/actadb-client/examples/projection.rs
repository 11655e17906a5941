//! A projection with a checkpoint: counts events by name, and goes on where it stopped.
//!
//! `cargo run -p actadb-client --example projection [redis://host:port] [counts.json]`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use actadb_client::{Checkpoint, Client, Delivery, Follow};
use serde::{Deserialize, Serialize};

/// What was counted, and how far: stored together, or a crash between the two would count twice.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) by_name: BTreeMap<String, u64>,
    checkpoint: Checkpoint,
}

impl Counts {
    fn load(file: &Path) -> Result<Self, Box<dyn Error>> {
        if !file.exists() {
            return Ok(Self::default());
        }
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    fn store(&self, file: &Path) -> Result<(), Box<dyn Error>> {
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::File::open(&new)?.sync_all()?;
        Ok(std::fs::rename(new, file)?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "redis://127.0.0.1:9090".into());
    let file = arguments.next().unwrap_or_else(|| "counts.json".into());
    println!("{:#?}", run(&url, Path::new(&file)).await?.by_name);
    Ok(())
}

/// Counts up to what is there now. A service would not stop.
pub(crate) async fn run(url: &str, file: &Path) -> Result<Counts, Box<dyn Error>> {
    let client = Client::connect(url).await?;
    let mut counts = Counts::load(file)?;
    let latest = client.latest(&Follow::all()).await?;
    let follow = Follow::all().from_checkpoint(counts.checkpoint.clone());
    let mut subscription = client.subscribe(follow).await?;
    let mut unsaved = 0;
    while !subscription.checkpoint().reaches(&latest) {
        let Some(delivery) = subscription.next().await else { break };
        if let Delivery::Event { event, .. } = delivery? {
            *counts.by_name.entry(event.name).or_default() += 1;
        }
        unsaved += 1;
        if unsaved == 100 {
            counts.checkpoint = subscription.checkpoint().clone();
            counts.store(file)?;
            unsaved = 0;
        }
    }
    counts.checkpoint = subscription.checkpoint().clone();
    counts.store(file)?;
    Ok(counts)
}

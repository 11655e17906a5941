//! `actadb cluster`: how a running cluster is doing, and moving a lead by hand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json};

use crate::connect_args::ConnectArgs;
use crate::wire_client::{ClientError, Value, WireClient};

/// What to do with a cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ClusterCommand {
    /// Tell about the nodes and the buckets, as the asked node knows them; exit code 1 when a
    /// bucket has no leader
    Status {
        #[command(flatten)]
        connect: ConnectArgs,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Hand the lead of a bucket over to a node; ask the node that leads it
    TransferLeader {
        #[command(flatten)]
        connect: ConnectArgs,
        /// Number of the bucket
        bucket: u16,
        /// Number of the node
        node: u8,
    },
}

/// Runs it.
pub async fn run(args: ClusterArgs) -> ExitCode {
    let done = match args.command {
        ClusterCommand::Status { connect, json } => status(&connect, json).await,
        ClusterCommand::TransferLeader { connect, bucket, node } => {
            transfer(&connect, bucket, node).await
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

async fn text(client: &mut WireClient, word: &str) -> Result<String, ClientError> {
    let reply = client.call(&[b"CLUSTER", word.as_bytes()]).await?;
    Ok(reply.text().unwrap_or_default().to_owned())
}

async fn status(connect: &ConnectArgs, json: bool) -> Result<ExitCode, ClientError> {
    let mut client = connect.connect().await?;
    let (info, nodes) = (text(&mut client, "INFO").await?, text(&mut client, "NODES").await?);
    let pairs: Vec<(&str, &str)> = info.lines().filter_map(|line| line.split_once(':')).collect();
    let value = |key: &str| pairs.iter().find(|(k, _)| *k == key).map_or("", |(_, value)| value);
    let state = value("cluster_state");
    if json {
        let mut object = Map::new();
        for (key, value) in &pairs {
            object.insert((*key).to_owned(), Json::from(*value));
        }
        let nodes: Vec<Json> = nodes.lines().map(Json::from).collect();
        object.insert("nodes".to_owned(), Json::from(nodes));
        println!("{}", Json::from(object));
    } else {
        println!(
            "cluster {} is {state}, as node {} sees it",
            value("cluster_id"),
            value("cluster_node")
        );
        for node in nodes.lines() {
            println!("  node {node}");
        }
        for (key, value) in pairs.iter().filter(|(key, _)| key.starts_with("cluster_bucket")) {
            println!("  bucket {}: {value}", key.trim_start_matches("cluster_bucket"));
        }
    }
    Ok(if state == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn transfer(connect: &ConnectArgs, bucket: u16, node: u8) -> Result<ExitCode, ClientError> {
    let mut client = connect.connect().await?;
    let (bucket, node) = (bucket.to_string(), node.to_string());
    let words: [&[u8]; 4] = [b"CLUSTER", b"HANDOVER", bucket.as_bytes(), node.as_bytes()];
    match client.call(&words).await? {
        Value::Error(error) => {
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
        _ => {
            println!("bucket {bucket} is handed over to node {node}; see `actadb cluster status`");
            Ok(ExitCode::SUCCESS)
        }
    }
}

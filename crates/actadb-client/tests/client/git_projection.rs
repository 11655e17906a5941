//! The projection of a git history is killed at random points, and counts right all the same.

#[expect(dead_code, reason = "its `main` is for those who run it alone")]
#[path = "../../examples/git_projection.rs"]
mod example;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use actadb_client::NewEvent;
use actadb_server::connect_args::ConnectArgs;
use actadb_server::import::{ImportArgs, run as import};
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Dice, connect, start, url};

const SAMPLE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../actadb-server/tests/data/commits.jsonl");
const DAY_MS: u64 = 86_400_000;

/// Author and day number of the Monday: commits, changed lines.
type Weeks = BTreeMap<(String, u64), (u64, u64)>;

/// What the sample says, counted without database and server.
fn wanted() -> Weeks {
    let mut weeks = Weeks::new();
    for line in std::fs::read_to_string(SAMPLE).expect("the sample").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let number = |value: &Value| value.as_u64().expect("a number");
        let day = number(&line["timestamp"]) / DAY_MS;
        // Day 0 was a Thursday.
        let monday = day - (day + 3) % 7;
        let author = line["stream"].as_str().expect("text").trim_start_matches("author-");
        let week = weeks.entry((author.to_owned(), monday)).or_default();
        week.0 += 1;
        week.1 += number(&line["payload"]["insertions"]) + number(&line["payload"]["deletions"]);
    }
    weeks
}

fn projected(file: &Path) -> Weeks {
    let database = Connection::open(file).expect("opens");
    let sql = "SELECT author, unixepoch(monday) / 86400, commits, lines FROM weeks";
    let mut select = database.prepare(sql).expect("prepares");
    let number = |row: &rusqlite::Row<'_>, column| row.get::<_, i64>(column).map(|n| n as u64);
    let rows = select.query_map([], |row| {
        Ok(((row.get(0)?, number(row, 1)?), (number(row, 2)?, number(row, 3)?)))
    });
    rows.expect("selects").map(|row| row.expect("a row")).collect()
}

/// How many commits a projection that was killed has counted; 0 before there is a table.
fn commits(file: &Path) -> i64 {
    let database = Connection::open(file).expect("opens");
    let sum = database.query_row("SELECT sum(commits) FROM weeks", [], |row| row.get(0));
    sum.unwrap_or(0)
}

/// The projection in a process of its own: this test binary, told to run [`child`].
fn project(url: &str, file: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "git_projection::child", "--ignored"]);
    command.env("CHILD_URL", url).env("CHILD_FILE", file).stdout(Stdio::null());
    command
}

#[tokio::test]
#[ignore = "what the test below starts and kills"]
async fn child() {
    let (Ok(url), Ok(file)) = (std::env::var("CHILD_URL"), std::env::var("CHILD_FILE")) else {
        return;
    };
    example::run(&url, Path::new(&file)).await.expect("projects");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_points_it_ends_with_the_right_numbers() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let address = server.client_address();
    import(ImportArgs {
        file: SAMPLE.into(),
        connect: ConnectArgs { address: address.to_string(), password: None },
        batch: 4 << 20,
        depth: 512,
        json: true,
    })
    .await;
    // Other events are none of its business.
    let client = connect(&server).await;
    for n in 0..20 {
        client.append(NewEvent::new(format!("other-{n}"), "Committed")).await.expect("appends");
    }
    let mut dice = Dice::new("git_projection");
    let (url, file) = (url(address), dir.path().join("weeks.db"));
    let (mut kills, mut inside) = (0, 0);
    let whole = loop {
        let mut child = project(&url, &file).spawn().expect("starts");
        // The first runs die young, later ones may end; then it ends for good.
        let patience = Duration::from_millis(20 + dice.below(100) + 10 * kills);
        let waiting = tokio::task::spawn_blocking(move || {
            std::thread::sleep(patience);
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            child.kill().expect("is killed");
            let _ = child.wait();
            None
        });
        if let Some(status) = waiting.await.expect("waits") {
            assert!(status.success(), "the projection failed: {status}");
            break projected(&file);
        }
        kills += 1;
        inside += u64::from((1..500).contains(&commits(&file)));
    };
    println!("killed {kills} times, {inside} times in the middle");
    assert_eq!(whole, wanted());
    // Once more changes nothing.
    let again = tokio::task::spawn_blocking({
        let (url, file) = (url.clone(), file.clone());
        move || project(&url, &file).status().expect("runs")
    });
    assert!(again.await.expect("waits").success());
    assert_eq!(projected(&file), wanted());
    server.stop().await;
}

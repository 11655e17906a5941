//! The examples run, and say what they should.

#[expect(dead_code, reason = "its `main` is for those who run it alone")]
#[path = "../../examples/optimistic_loop.rs"]
mod optimistic_loop;
#[expect(dead_code, reason = "its `main` is for those who run it alone")]
#[path = "../../examples/projection.rs"]
mod projection;
#[expect(dead_code, reason = "its `main` is for those who run it alone")]
#[path = "../../examples/quick_start.rs"]
mod quick_start;

use actadb_client::NewEvent;

use crate::support::{connect, start, url};

#[tokio::test(flavor = "multi_thread")]
async fn quick_start_ends() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    quick_start::run(&url(server.client_address())).await.expect("runs");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn optimistic_clerks_never_overdraw() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let balance = optimistic_loop::run(&url(server.client_address())).await.expect("runs");
    assert_eq!(balance, 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projection_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start(dir.path()).await;
    let client = connect(&server).await;
    let file = dir.path().join("counts.json");
    for round in 1..=3 {
        for n in 0..150 {
            let name = if n % 3 == 0 { "Shipped" } else { "Paid" };
            client.append(NewEvent::new(format!("s{}", n % 7), name)).await.expect("appends");
        }
        let counts = projection::run(&url(server.client_address()), &file).await.expect("runs");
        let wanted = [("Paid".to_owned(), round * 100), ("Shipped".to_owned(), round * 50)];
        assert_eq!(counts.by_name, wanted.into());
    }
    server.stop().await;
}

//! Following over a real socket: pushes between replies, every form of every option, BLOCK, and
//! how it all ends.

use std::time::Duration;

use actadb_server::server::Server;
use actadb_server::wire_client::{Value, WireClient};

use crate::support::{connect, number, page, settings, text};

/// Waits a bounded time: a test that hangs says nothing.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

struct Fixture {
    _dir: tempfile::TempDir,
    server: Server,
}

impl Fixture {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let server = Server::start(settings(dir.path())).await.expect("starts");
        Self { _dir: dir, server }
    }

    async fn client(&self) -> Client {
        let address = self.server.client_address().to_string();
        Client(WireClient::connect(&address, None).await.expect("connects"), Vec::new())
    }

    /// Waits until the server counts so many subscriptions and blocked reads.
    async fn until(&self, subscriptions: u64, blocked: u64) {
        let counted = async {
            loop {
                let status = self.server.database().status();
                if (status.subscriptions, status.blocked_reads) == (subscriptions, blocked) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("the counts", counted).await;
    }
}

/// A connection, and the pushes that came before a reply.
struct Client(WireClient, Vec<Value>);

impl Client {
    fn send(&mut self, line: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.0.queue(&words);
    }

    async fn reply(&mut self) -> Value {
        loop {
            match soon("a reply", self.0.reply()).await.expect("the connection lasts") {
                push @ Value::Push(_) => self.1.push(push),
                reply => return reply,
            }
        }
    }

    async fn call(&mut self, line: &str) -> Value {
        self.send(line);
        self.reply().await
    }

    async fn error(&mut self, line: &str) -> String {
        match self.call(line).await {
            Value::Error(text) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// The subscription's id.
    async fn subscribe(&mut self, line: &str) -> String {
        match self.call(line).await {
            Value::Simple(id) => id,
            other => panic!("{line}: {other:?}"),
        }
    }

    async fn push(&mut self) -> Vec<Value> {
        let push = match self.1.is_empty() {
            false => self.1.remove(0),
            true => soon("a push", self.0.reply()).await.expect("the connection lasts"),
        };
        match push {
            Value::Push(parts) => parts,
            other => panic!("no push: {other:?}"),
        }
    }

    /// The next event: subscription, cursor, event.
    async fn message(&mut self) -> (String, u64, Value) {
        let parts = self.push().await;
        let [kind, id, cursor, event] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(kind.text(), Some("message"), "{parts:?}");
        (id.text().expect("an id").into(), cursor.number().expect("a cursor"), event.clone())
    }

    /// Cursors and versions of the next events of one subscription.
    async fn messages(&mut self, subscription: &str, count: usize) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        while found.len() < count {
            let (id, cursor, event) = self.message().await;
            assert_eq!(id, subscription);
            let version = event.get("stream_version").and_then(Value::number);
            found.push((cursor, version.expect("a version")));
        }
        found
    }

    /// Nothing comes before the answer to a PING.
    async fn hears_nothing(&mut self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(self.call("PING").await, Value::Simple("PONG".into()));
        assert_eq!(self.1, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn esub_goes_from_any_version_into_what_is_appended_and_eunsub_is_the_end() {
    let fixture = Fixture::start().await;
    let (mut reader, mut writer) = (fixture.client().await, fixture.client().await);
    for n in 0..3 {
        writer.call(&format!("EAPPEND s Happened PAYLOAD {n}")).await;
    }
    let all = reader.subscribe("ESUB s FROM 0").await;
    assert_eq!(reader.messages(&all, 3).await, [(0, 0), (1, 1), (2, 2)]);
    writer.call("EAPPEND s Happened").await;
    assert_eq!(reader.messages(&all, 1).await, [(3, 3)]);
    assert_eq!(reader.call(&format!("EUNSUB {all}")).await, Value::Simple("OK".into()));
    writer.call("EAPPEND s Happened").await;
    reader.hears_nothing().await;

    // FROM LATEST is what comes after; several streams count, wherever their keys put them.
    let key = "b5caaf75-d5ce-5289-a5cb-29de88f7c203";
    let both = reader.subscribe(&format!("ESUB s t PARTITION_KEY {key} FROM LATEST")).await;
    writer.call(&format!("EAPPEND t Happened PARTITION_KEY {key}")).await;
    assert_eq!(reader.messages(&both, 1).await, [(0, 0)]);
    writer.call("EAPPEND s Happened").await;
    assert_eq!(reader.messages(&both, 1).await, [(1, 5)]);
    // What a map does not name begins at the latest, or at the default.
    let from = reader.subscribe("ESUB s u FROM MAP s=4").await;
    assert_eq!(reader.messages(&from, 2).await, [(0, 4), (1, 5)]);
    let from = reader.subscribe("ESUB s u FROM MAP u=0 DEFAULT 5").await;
    assert_eq!(reader.messages(&from, 1).await, [(0, 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn epsub_follows_one_a_list_a_range_a_key_or_all() {
    let fixture = Fixture::start().await;
    let (mut reader, mut writer) = (fixture.client().await, fixture.client().await);
    let appended = writer.call("EAPPEND s Happened").await;
    let partition = appended.get("partition_id").and_then(Value::number).expect("a partition");
    let key = "b5caaf75-d5ce-5289-a5cb-29de88f7c202";
    let forms = [
        "*".to_owned(),
        partition.to_string(),
        key.into(),
        format!("0-{partition}"),
        format!("0,{partition}"),
    ];
    for form in forms {
        let id = reader.subscribe(&format!("EPSUB {form} FROM 0")).await;
        assert_eq!(reader.messages(&id, 1).await, [(0, 0)], "{form}");
        reader.call(&format!("EUNSUB {id}")).await;
    }
    let id = reader.subscribe(&format!("EPSUB {partition} FROM 1")).await;
    let list = reader.subscribe(&format!("EPSUB {partition},0 FROM LATEST")).await;
    writer.call("EAPPEND s Happened").await;
    let mut cursors = Vec::new();
    for _ in 0..2 {
        let (of, cursor, _) = reader.message().await;
        cursors.push((of == id, cursor));
    }
    cursors.sort_unstable();
    // The list counts from 0; the partition's own cursor is the sequence.
    assert_eq!(cursors, [(false, 0), (true, 1)]);
    assert!(list != id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_holds_back_and_a_filter_comes_before_it() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    for n in 0..12 {
        let name = if n % 4 == 3 { "Rare" } else { "Common" };
        client.call(&format!("EAPPEND s {name}")).await;
    }
    let id = client.subscribe("ESUB s FROM 0 WINDOW 1 NAMES Rare,Other").await;
    assert_eq!(client.messages(&id, 1).await, [(3, 3)]);
    client.hears_nothing().await;
    let ahead = "INVALIDARG cursor 4 is ahead of what was sent (the last is 3)";
    assert_eq!(client.error(&format!("EACK {id} 4")).await, ahead);
    client.call(&format!("EACK {id} 3")).await;
    assert_eq!(client.messages(&id, 1).await, [(7, 7)]);
    // Acknowledgements never go back.
    assert_eq!(client.call(&format!("EACK {id} 2")).await, Value::Simple("OK".into()));
    client.hears_nothing().await;
    client.call(&format!("EUNSUB {id}")).await;

    let id = client.subscribe("EPSUB * FROM 0 PREFIX other- PROGRESS 5").await;
    let progress = client.push().await;
    assert_eq!(progress[0].text(), Some("progress"));
    assert_eq!(progress[1].text(), Some(id.as_str()));
    assert_eq!(progress[2].number(), Some(4));
    let Value::Map(positions) = &progress[3] else { panic!("{progress:?}") };
    assert_eq!(positions[..], [(Value::Integer(12), Value::Integer(5))]);
    assert_eq!(client.push().await[2].number(), Some(9));
    // The last two, a second after they were skipped.
    assert_eq!(client.push().await[2].number(), Some(11));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_before_anything_begins() {
    let fixture = Fixture::start().await;
    let (mut client, mut other) = (fixture.client().await, fixture.client().await);
    client.call("EAPPEND s Happened").await;
    let past = "INVALIDARG FROM 5000 is past the end (next is 1)";
    assert_eq!(client.error("ESUB s FROM 5000").await, past);
    let past = "INVALIDARG FROM 7 is past the end of 's' (next is 1)";
    assert_eq!(client.error("ESUB s t FROM MAP s=7").await, past);
    let none = "INVALIDARG partition 32 does not exist (0 to 31)";
    assert_eq!(client.error("EPSUB 0-99").await, none);
    let twice = "INVALIDARG 's' is named twice";
    assert_eq!(client.error("ESUB s s").await, twice);
    let id = client.subscribe("ESUB s").await;
    let another = format!("NOTFOUND this connection has no subscription {id}");
    assert_eq!(other.error(&format!("EACK {id} 0")).await, another);
    assert_eq!(other.error(&format!("EUNSUB {id}")).await, another);
    let nothing = "INVALIDARG cursor 0 is ahead of what was sent (nothing was sent yet)";
    assert_eq!(client.error(&format!("EACK {id} 0")).await, nothing);
    other.call("HELLO 2").await;
    let resp2 =
        "ERR ESUB pushes events and needs RESP3: say HELLO 3 first, or follow with ESCAN ... BLOCK";
    assert_eq!(other.error("ESUB s").await, resp2);
    fixture.until(1, 0).await;
    // What no longer can be pushed to follows nothing any more.
    client.call("HELLO 2").await;
    fixture.until(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_come_between_the_replies_of_ordinary_commands() {
    let fixture = Fixture::start().await;
    let (mut client, mut writer) = (fixture.client().await, fixture.client().await);
    let ids = [client.subscribe("ESUB s FROM 0").await, client.subscribe("EPSUB * FROM 0").await];
    // A pipeline of its own appends, a read that waits for an event that never comes, and pushes.
    for _ in 0..50 {
        client.send("EAPPEND s Happened");
    }
    client.send("ESCAN quiet - + BLOCK 300");
    for _ in 0..50 {
        let version = client.reply().await.get("stream_version").and_then(Value::number);
        assert!(version.is_some());
    }
    fixture.until(2, 1).await;
    for _ in 0..50 {
        writer.call("EAPPEND s Happened").await;
    }
    let page = client.reply().await;
    assert_eq!(page.get("events"), Some(&Value::Array(Vec::new())));
    // All of them were pushed while the read waited, in order.
    let mut next = [0, 0];
    for _ in 0..200 {
        let (id, cursor, _) = client.message().await;
        let which = ids.iter().position(|known| *known == id).expect("one of them");
        assert_eq!(cursor, next[which]);
        next[which] += 1;
    }
    assert_eq!(next, [100, 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_do_not_wait_for_the_end_of_a_long_pipeline_of_pages() {
    // 60 MB of replies: far more than sockets hold.
    const PAGES: usize = 2_000;
    let fixture = Fixture::start().await;
    let (mut client, mut writer) = (fixture.client().await, fixture.client().await);
    let payload = "x".repeat(3_000);
    for _ in 0..10 {
        writer.call(&format!("EAPPEND large Happened PAYLOAD {payload}")).await;
    }
    let id = client.subscribe("ESUB s FROM LATEST").await;
    for _ in 0..PAGES {
        client.send("ESCAN large - +");
    }
    client.reply().await;
    for _ in 0..20 {
        writer.call("EAPPEND s Happened").await;
    }
    for _ in 2..PAGES {
        client.reply().await;
    }
    assert!(!client.1.is_empty(), "nothing was pushed before the last page");
    client.reply().await;
    let wanted: Vec<_> = (0..20).map(|n| (n, n)).collect();
    assert_eq!(client.messages(&id, 20).await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_appends_errors_and_commands_of_one_pipeline_are_answered_in_order() {
    const ROUNDS: u64 = 40;
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    // Pages of 400 KB: larger than what is sent at once, and still read where they are asked for.
    let payload = "x".repeat(2_000);
    for _ in 0..200 {
        client.send(&format!("EAPPEND large Happened PAYLOAD {payload}"));
    }
    let mut ids = Vec::new();
    for _ in 0..200 {
        let reply = client.reply().await;
        ids.push(reply.get("event_id").and_then(Value::text).expect("an id").to_owned());
    }
    for n in 0..ROUNDS {
        client.send("ESCAN large - + COUNT 200");
        client.send("EAPPEND s Happened");
        client.send(&format!("EGET {}", ids[n as usize]));
        client.send("ESCAN large");
        client.send("ESVER s");
        client.send("ESCAN large 190 + COUNT 3 REV");
        client.send("PING");
        client.send("ESCAN quiet - + BLOCK 1");
        client.send("EGET 0198a1b2-0000-7000-8000-000000000000");
    }
    // It reads nothing for a while; the server cannot write on.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let number = |reply: &Value, key: &str| reply.get(key).and_then(Value::number);
    let versions = |reply: &Value| -> Vec<u64> {
        match reply.get("events") {
            Some(Value::Array(events)) => {
                events.iter().map(|e| number(e, "stream_version").expect("a version")).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let none: Vec<u64> = Vec::new();
    for n in 0..ROUNDS {
        assert_eq!(versions(&client.reply().await), (0..200).collect::<Vec<u64>>());
        assert_eq!(number(&client.reply().await, "stream_version"), Some(n));
        assert_eq!(number(&client.reply().await, "stream_version"), Some(n));
        assert!(matches!(client.reply().await, Value::Error(_)));
        assert_eq!(client.reply().await, Value::Integer(n as i64));
        assert_eq!(versions(&client.reply().await), [199, 198, 197]);
        assert_eq!(client.reply().await, Value::Simple("PONG".into()));
        assert_eq!(versions(&client.reply().await), none);
        assert_eq!(client.reply().await, Value::Null);
    }
    assert_eq!(client.1, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn escan_and_epscan_wait_for_the_first_event_in_both_protocols() {
    let fixture = Fixture::start().await;
    let (mut client, mut writer) = (fixture.client().await, fixture.client().await);
    for protocol in ["HELLO 2", "HELLO 3"] {
        client.call(protocol).await;
        let stream = if protocol == "HELLO 2" { "s" } else { "t" };
        client.send(&format!("ESCAN {stream} 0 + BLOCK 0"));
        client.send("PING");
        client.0.flush().await.expect("sent");
        fixture.until(0, 1).await;
        writer.call("EAPPEND another Happened").await;
        writer.call(&format!("EAPPEND {stream} Happened PAYLOAD first")).await;
        let page = client.reply().await;
        let Some(Value::Array(events)) = page.get("events") else { panic!("{page:?}") };
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].get("payload").and_then(Value::text), Some("first"));
        assert_eq!(client.reply().await, Value::Simple("PONG".into()));
        // What is there already is answered at once, and nothing after the patience.
        let page = client.call(&format!("ESCAN {stream} - + REV BLOCK 0")).await;
        assert!(matches!(page.get("events"), Some(Value::Array(events)) if events.len() == 1));
        let page = client.call(&format!("ESCAN {stream} 1 + BLOCK 10")).await;
        assert!(matches!(page.get("events"), Some(Value::Array(events)) if events.is_empty()));
    }
    client.send("EPSCAN 12 1 + BLOCK 0");
    client.0.flush().await.expect("sent");
    fixture.until(0, 1).await;
    writer.call("EAPPEND s Happened PAYLOAD second").await;
    let page = client.reply().await;
    let Some(Value::Array(events)) = page.get("events") else { panic!("{page:?}") };
    assert_eq!(events[0].get("payload").and_then(Value::text), Some("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_takes_its_subscriptions_and_its_waiting_read_along() {
    let fixture = Fixture::start().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = fixture.client().await;
        for _ in 0..10 {
            client.subscribe("EPSUB *").await;
        }
        client.send(&format!("ESCAN waits-{n} - + BLOCK 0"));
        client.0.flush().await.expect("sent");
        clients.push(client);
    }
    fixture.until(200, 20).await;
    drop(clients);
    fixture.until(0, 0).await;
    let mut client = fixture.client().await;
    client.subscribe("EPSUB *").await;
    client.call("RESET").await;
    fixture.until(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_takes_nothing_slows_nobody_and_gets_everything_later() {
    let fixture = Fixture::start().await;
    let (mut stalled, mut reader, mut writer) =
        (fixture.client().await, fixture.client().await, fixture.client().await);
    let slow = stalled.subscribe("EPSUB * FROM 0").await;
    let fast = reader.subscribe("EPSUB * FROM 0").await;
    // Far more than the buffers of a connection hold.
    let payload = "x".repeat(20_000);
    for n in 0..1000 {
        writer.send(&format!("EAPPEND s-{} Happened PAYLOAD {payload}", n % 7));
    }
    for _ in 0..1000 {
        assert!(matches!(writer.reply().await, Value::Map(_)));
    }
    let cursors = |found: Vec<(u64, u64)>| found.into_iter().map(|(c, _)| c).collect::<Vec<_>>();
    assert_eq!(cursors(reader.messages(&fast, 1000).await), (0..1000).collect::<Vec<_>>());
    assert_eq!(cursors(stalled.messages(&slow, 1000).await), (0..1000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_closes_subscriptions_with_a_word() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let id = client.subscribe("EPSUB *").await;
    let mut waiting = fixture.client().await;
    waiting.send("ESCAN quiet - + BLOCK 0");
    waiting.0.flush().await.expect("sent");
    fixture.until(1, 1).await;
    let Fixture { _dir, server } = fixture;
    let stopped = tokio::spawn(server.stop());
    let closed = client.push().await;
    let words: Vec<_> = closed.iter().map(|part| part.text().unwrap_or_default()).collect();
    assert_eq!(words, ["closed", id.as_str(), "TRYAGAIN the server is stopping"]);
    assert_eq!(waiting.reply().await, Value::Error("TRYAGAIN the server is stopping".into()));
    soon("the stop", stopped).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_behind_a_waiting_read_hides_no_close_and_has_a_limit() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    client.send("ESCAN quiet - + BLOCK 0");
    for _ in 0..100 {
        client.send("PING");
    }
    client.0.flush().await.expect("sent");
    fixture.until(0, 1).await;
    drop(client);
    fixture.until(0, 0).await;

    let mut client = fixture.client().await;
    client.send("ESCAN quiet - + BLOCK 0");
    let message = "x".repeat(1 << 20);
    for _ in 0..10 {
        client.send(&format!("ECHO {message}"));
    }
    // The connection may break before all is sent.
    let _ = soon("the end", client.0.flush()).await;
    fixture.until(0, 0).await;
    if let Ok(said) = soon("the word", client.0.reply()).await {
        let text = "ERR Protocol error: too many bytes of requests behind one that waits";
        assert_eq!(said, Value::Error(text.into()));
    }
}

/// redis-rs, as a stock client: it follows a stream with plain requests and replies.
#[tokio::test(flavor = "multi_thread")]
async fn redis_rs_follows_a_stream_with_block_in_both_protocols() {
    let fixture = Fixture::start().await;
    for protocol in [2, 3] {
        let mut reader = connect(&fixture.server, protocol).await;
        let mut writer = connect(&fixture.server, protocol).await;
        let stream = format!("follow-{protocol}");
        // A pipeline of a thousand is history, the rest comes while the reader waits.
        let mut pipeline = redis::pipe();
        for n in 0..1000 {
            pipeline.cmd("EAPPEND").arg(&stream).arg("Happened").arg("PAYLOAD").arg(n);
        }
        let answers: Vec<redis::Value> = pipeline.query_async(&mut writer).await.expect("appends");
        assert_eq!(answers.len(), 1000);
        let later = {
            let stream = stream.clone();
            tokio::spawn(async move {
                for n in 1000..1100 {
                    let mut append = redis::cmd("EAPPEND");
                    append.arg(&stream).arg("Happened").arg("PAYLOAD").arg(n);
                    let _: redis::Value = append.query_async(&mut writer).await.expect("appends");
                }
            })
        };
        let mut next = 0;
        while next < 1100 {
            let mut scan = redis::cmd("ESCAN");
            scan.arg(&stream).arg(next).arg("+").arg("COUNT").arg(77).arg("BLOCK").arg(0);
            let found = soon("a page", scan.query_async(&mut reader)).await.expect("reads");
            for event in page(&found).0 {
                assert_eq!(number(&event, "stream_version"), next);
                assert_eq!(text(&event, "payload"), next.to_string());
                next += 1;
            }
        }
        later.await.expect("no panic");
    }
}

//! Every command through redis-rs, in both protocols.

use actadb_server::server::Server;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value, cmd, pipe};

use crate::support::{connect, connect_to, field, number, page, settings, text};

async fn run(connection: &mut MultiplexedConnection, line: &str) -> RedisResult<Value> {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    command.query_async(connection).await
}

fn code(error: &RedisError) -> String {
    error.code().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_appended_and_read_back_in_both_protocols() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    for protocol in [2, 3] {
        let mut c = connect(&server, protocol).await;
        let stream = format!("account-{protocol}");
        let opened =
            run(&mut c, &format!("EAPPEND {stream} Opened EXPECTED_VERSION empty PAYLOAD p0"))
                .await
                .expect("appends");
        assert_eq!(number(&opened, "stream_version"), 0);
        let partition = number(&opened, "partition_id");
        let key = text(&opened, "partition_key");
        let id = text(&opened, "event_id");

        let many = run(
            &mut c,
            &format!("EMAPPEND {key} {stream} A PAYLOAD p1 other-{stream} B METADATA m {stream} C"),
        )
        .await
        .expect("appends");
        let Value::Array(events) = field(&many, "events") else { panic!("{many:?}") };
        assert_eq!(events.len(), 3);
        assert_eq!(number(&events[2], "stream_version"), 2);
        assert_eq!(
            number(&many, "last_partition_sequence") - number(&many, "first_partition_sequence"),
            2
        );

        let event = run(&mut c, &format!("EGET {id}")).await.expect("reads");
        assert_eq!(text(&event, "event_id"), id);
        assert_eq!(text(&event, "transaction_id"), id);
        assert_eq!(text(&event, "stream_id"), stream);
        assert_eq!(text(&event, "event_name"), "Opened");
        assert_eq!(text(&event, "payload"), "p0");
        assert_eq!(text(&event, "metadata"), "");
        let missing = "EGET 00000000-0000-0000-0000-000000000000";
        assert_eq!(run(&mut c, missing).await.expect("reads"), Value::Nil);

        let all = run(&mut c, &format!("ESCAN {stream} - +")).await.expect("reads");
        let (events, more) = page(&all);
        let names: Vec<_> = events.iter().map(|e| text(e, "event_name")).collect();
        assert_eq!((names, more), (vec!["Opened".into(), "A".into(), "C".into()], false));
        let last = run(&mut c, &format!("ESCAN {stream} 0 + REV COUNT 1")).await.expect("reads");
        let (events, more) = page(&last);
        assert_eq!((number(&events[0], "stream_version"), more), (2, true));

        let by_id = run(&mut c, &format!("EPSCAN {partition} - + COUNT 10")).await.expect("reads");
        let by_key = run(&mut c, &format!("EPSCAN {key} - + COUNT 10")).await.expect("reads");
        assert_eq!(by_id, by_key);
        assert_eq!(run(&mut c, &format!("ESVER {stream}")).await.expect("reads"), Value::Int(2));
        assert_eq!(run(&mut c, "ESVER nobody").await.expect("reads"), Value::Nil);
        let last = run(&mut c, &format!("EPSEQ {partition}")).await.expect("reads");
        assert_eq!(last, Value::Int(page(&by_id).0.len() as i64 - 1));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_words_that_clients_parse() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut c = connect(&server, 3).await;
    run(&mut c, "EAPPEND s A").await.expect("appends");
    let error = run(&mut c, "EAPPEND s A EXPECTED_VERSION 7").await.expect_err("a conflict");
    assert_eq!(code(&error), "WRONGVER");
    assert_eq!(
        error.detail(),
        Some(
            "current stream version is 0 but expected 7 for partition key \
             b5caaf75-d5ce-5289-a5cb-29de88f7c202 and stream id s"
        )
    );
    for (line, wanted) in [
        ("EAPPEND s A EXPECTED_VERSION 18446744073709551615", "WRONGVER"),
        ("EAPPEND t A EXPECTED_VERSION exists", "WRONGVER"),
        ("EAPPEND s A PARTITION_KEY 00000000-0000-0000-0000-000000000000", "INVALIDARG"),
        ("EAPPEND s A EVENT_ID 00000000-0000-0000-0000-000000000000", "INVALIDARG"),
        ("EAPPEND s A TIMESTAMP 1700000000000000000", "INVALIDARG"),
        ("EAPPEND s A WHAT 7", "SYNTAX"),
        ("ESCAN s + -", "INVALIDARG"),
        ("EPSCAN 99 - +", "INVALIDARG"),
        ("ESCAN s - + COUNT 0", "INVALIDARG"),
        ("EGET", "ERR"),
        ("NOSUCH thing", "ERR"),
    ] {
        let error = run(&mut c, line).await.expect_err(line);
        assert_eq!(code(&error), wanted, "{line}: {error}");
    }
    // Nothing of it was appended.
    assert_eq!(run(&mut c, "ESVER s").await.expect("reads"), Value::Int(0));
    assert_eq!(run(&mut c, "DBSIZE").await.expect("reads"), Value::Int(1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_event_id_appends_once() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut c = connect(&server, 3).await;
    let first = run(&mut c, "EAPPEND s A PAYLOAD x").await.expect("appends");
    let id = text(&first, "event_id");
    let again = run(&mut c, &format!("EAPPEND s A EVENT_ID {id} PAYLOAD x EXPECTED_VERSION empty"))
        .await
        .expect("the original positions");
    assert_eq!(first, again);
    let other = run(&mut c, &format!("EAPPEND s A EVENT_ID {id} PAYLOAD y")).await;
    let error = other.expect_err("another event with the id");
    assert_eq!(code(&error), "DUPLICATE");
    assert_eq!(error.detail(), Some(format!("{id} is version 0 of stream s").as_str()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_keeps_its_order_and_sees_its_own_writes() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut c = connect(&server, 3).await;
    let mut pipeline = pipe();
    for n in 0..1000 {
        pipeline.cmd("EAPPEND").arg(format!("s{}", n % 7)).arg("A").arg("PAYLOAD").arg(n);
    }
    pipeline.cmd("ESVER").arg("s0");
    pipeline.cmd("EAPPEND").arg("s0").arg("A").arg("EXPECTED_VERSION").arg("empty");
    pipeline.cmd("EAPPEND").arg("s0").arg("Last");
    pipeline.cmd("ESCAN").arg("s0").arg("-").arg("+").arg("REV").arg("COUNT").arg(1);
    pipeline.ignore_errors();
    let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut c).await.expect("replies");
    assert_eq!(replies.len(), 1004);
    for (n, reply) in replies[..1000].iter().enumerate() {
        let reply = reply.as_ref().expect("appends");
        assert_eq!(number(reply, "stream_version"), n as u64 / 7);
    }
    assert_eq!(replies[1000].as_ref().expect("reads"), &Value::Int(142));
    assert_eq!(code(replies[1001].as_ref().expect_err("a conflict")), "WRONGVER");
    let (events, _) = page(replies[1003].as_ref().expect("reads"));
    assert_eq!(text(&events[0], "event_name"), "Last");
    let status = server.database().status();
    let commits: u64 = status.buckets.iter().map(|bucket| bucket.entries).sum();
    assert!(commits < 200, "a pipeline shares its commits, {commits} were made");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_client_commands_are_answered() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    for protocol in [2, 3] {
        let mut c = connect(&server, protocol).await;
        let hello = run(&mut c, &format!("HELLO {protocol}")).await.expect("hello");
        let shown = format!("{hello:?}");
        assert!(shown.contains("actadb") && shown.contains("num_partitions"), "{shown}");
        for line in [
            "PING",
            "PING hi",
            "ECHO x",
            "SELECT 0",
            "CLIENT ID",
            "CLIENT INFO",
            "CLIENT LIST",
            "CLIENT SETNAME me",
            "CLIENT GETNAME",
            "CLIENT SETINFO LIB-NAME x",
            "COMMAND COUNT",
            "COMMAND DOCS",
            "COMMAND INFO eappend",
            "COMMAND LIST",
            "COMMAND",
            "INFO",
            "INFO server",
            "CONFIG GET *",
            "DBSIZE",
            "TIME",
            "MODULE LIST",
            "ROLE",
            "RESET",
        ] {
            run(&mut c, line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in ["SELECT 1", "HELLO 4", "CLIENT NOPE", "CONFIG SET x y", "SUBSCRIBE x"] {
            assert!(run(&mut c, line).await.is_err(), "{line}");
        }
    }
    let mut c = connect(&server, 3).await;
    let info: String = cmd("INFO").query_async(&mut c).await.expect("info");
    for word in ["redis_version:7.4.0", "actadb_version:", "loading:0", "# Keyspace", "bucket0:"] {
        assert!(info.contains(word), "{word} is missing in {info}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_wanted_and_checked() {
    let dir = tempfile::tempdir().expect("dir");
    let mut settings = settings(dir.path());
    settings.auth.password = "sesame".into();
    let server = Server::start(settings).await.expect("starts");
    let address = server.client_address();
    let refused = redis::Client::open(format!("redis://:wrong@{address}/?protocol=resp3"))
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await;
    assert!(refused.is_err());
    let mut c = connect_to(&format!("redis://{address}/")).await;
    let error = run(&mut c, "ESVER s").await.expect_err("not yet");
    assert_eq!(code(&error), "NOAUTH");
    let error = run(&mut c, "AUTH wrong").await.expect_err("wrong");
    assert_eq!(code(&error), "WRONGPASS");
    run(&mut c, "AUTH default sesame").await.expect("right");
    run(&mut c, "EAPPEND s A").await.expect("appends");
    run(&mut c, "RESET").await.expect("as new");
    assert_eq!(code(&run(&mut c, "ESVER s").await.expect_err("again")), "NOAUTH");
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://:sesame@{address}/?protocol={protocol}");
        let mut c = connect_to(&url).await;
        assert_eq!(run(&mut c, "ESVER s").await.expect("reads"), Value::Int(0));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resp3_can_be_the_default_of_a_connection() {
    let dir = tempfile::tempdir().expect("dir");
    let mut settings = settings(dir.path());
    settings.network.default_protocol = 3;
    let server = Server::start(settings).await.expect("starts");
    // What SierraDB's client does: RESP3 without HELLO, maps with simple strings as keys.
    let mut c = connect_to(&format!("redis://{}/", server.client_address())).await;
    let appended = run(&mut c, "EAPPEND s A").await.expect("appends");
    assert!(matches!(appended, Value::Map(_)), "{appended:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_refuses_appends_and_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Server::start(settings(dir.path())).await.expect("starts");
    let mut c = connect(&server, 3).await;
    run(&mut c, "EAPPEND s A PAYLOAD kept").await.expect("appends");
    server.database().close().await;
    let error = run(&mut c, "EAPPEND s A").await.expect_err("stopping");
    assert_eq!(
        (code(&error).as_str(), error.detail()),
        ("TRYAGAIN", Some("the server is stopping"))
    );
    run(&mut c, "ESCAN s - +").await.expect("reads go on");
    server.stop().await;
    let server = Server::start(settings(dir.path())).await.expect("starts again");
    let mut c = connect(&server, 3).await;
    let (events, _) = page(&run(&mut c, "ESCAN s - +").await.expect("reads"));
    assert_eq!(text(&events[0], "payload"), "kept");
    server.stop().await;
}

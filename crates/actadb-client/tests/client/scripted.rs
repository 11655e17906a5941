//! A server that says what a test wants: for what a healthy one never says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actadb_client::{Client, ClientOptions, Code, Error, ExpectedVersion, Follow, NewEvent, Uuid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{next, url};

const SUBSCRIPTION: &str = "00000000-0000-4000-8000-000000000001";

/// Answers hellos by itself and everything else from its script; a `{id}` in an answer is the
/// EVENT_ID of the command. An empty answer closes the connection.
#[derive(Clone)]
struct Scripted {
    address: SocketAddr,
    script: Arc<Mutex<VecDeque<String>>>,
    heard: Arc<Mutex<Vec<Vec<String>>>>,
    database: Arc<Mutex<String>>,
}

impl Scripted {
    async fn start(script: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let script = script.iter().map(|answer| answer.replace('\n', "\r\n")).collect();
        let (script, database) = (Arc::new(Mutex::new(script)), Arc::new(Mutex::new("one".into())));
        let server = Self { address, script, heard: Arc::default(), database };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(socket));
            }
        });
        server
    }

    async fn serve(self, socket: TcpStream) {
        let mut socket = BufReader::new(socket);
        while let Some(command) = read(&mut socket).await {
            let answer = match command[0].as_str() {
                "HELLO" => self.hello(),
                "CLIENT" | "EACK" => "+OK\r\n".to_owned(),
                "PING" => "+PONG\r\n".to_owned(),
                _ => self.answer(command),
            };
            if answer.is_empty() || socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn hello(&self) -> String {
        let database = self.database.lock().expect("sound");
        format!("%2\r\n+num_partitions\r\n:32\r\n+peer_id\r\n+{database}\r\n")
    }

    fn answer(&self, command: Vec<String>) -> String {
        let id = command.iter().skip_while(|word| *word != "EVENT_ID").nth(1).cloned();
        self.heard.lock().expect("sound").push(command);
        let answer = self.script.lock().expect("sound").pop_front().unwrap_or_default();
        answer.replace("{id}", &id.unwrap_or_default())
    }

    fn heard(&self) -> Vec<Vec<String>> {
        self.heard.lock().expect("sound").clone()
    }

    async fn client(&self) -> Client {
        let options =
            ClientOptions::new(url(self.address)).retry_timeout(Duration::from_millis(500));
        Client::connect_with(options).await.expect("connects")
    }
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    socket.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
    let count: usize = line.trim_start_matches('*').trim().parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line.clear();
        socket.read_line(&mut line).await.ok()?;
        let length: usize = line.trim_start_matches('$').trim().parse().ok()?;
        let mut word = vec![0; length + 2];
        socket.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Some(words)
}

const APPENDED: &str = "%6\n+event_id\n+{id}\n+partition_key\n\
    +b5caaf75-d5ce-5289-a5cb-29de88f7c202\n+partition_id\n:12\n+partition_sequence\n:7\n\
    +stream_version\n:3\n+timestamp\n:1\n";

#[tokio::test]
async fn an_append_is_tried_again_with_the_same_id() {
    let script =
        ["-UNCERTAIN a failure\n", "-TIMEOUT no answer\n", "", "-TRYAGAIN busy\n", APPENDED];
    let server = Scripted::start(&script).await;
    let appended = server.client().await.append(NewEvent::new("s", "A")).await.expect("appends");
    assert_eq!((appended.version, appended.sequence), (3, 7));
    let heard = server.heard();
    assert_eq!(heard.len(), 5);
    assert!(heard.iter().all(|command| *command == heard[0]), "{heard:?}");
    assert!(heard[0].contains(&appended.event_id.to_string()));
}

#[tokio::test]
async fn a_refusal_is_definite_unless_an_earlier_try_is_open() {
    let wrong = "-WRONGVER current stream version is 5 but expected 4 for partition key \
                 b5caaf75-d5ce-5289-a5cb-29de88f7c202 and stream id s\n";
    let too_low = wrong.replace("is 5", "is 3");
    let event = || NewEvent::new("s", "A").expect(ExpectedVersion::Exact(4));
    let append = async |script: &[&str]| {
        let server = Scripted::start(script).await;
        let error = server.client().await.append(event()).await.expect_err("is refused");
        assert_eq!(server.heard().len(), script.len());
        error
    };
    let error = append(&["-READONLY bucket 1\n"]).await;
    assert!(matches!(error, Error::Refused { code: Code::ReadOnly, .. }), "{error}");
    assert_eq!(error.to_string(), "READONLY: bucket 1");
    // Whether it is on the disk of a bucket that failed, only a restart can tell.
    let error = append(&["-UNCERTAIN a failure\n", "-READONLY bucket 1\n"]).await;
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let error = append(&["", wrong]).await;
    assert!(matches!(error, Error::WrongExpectedVersion { current: Some(5), .. }), "{error}");
    // What is on its way in the lost connection may find version 4 yet.
    let error = append(&["", &too_low]).await;
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let error = append(&[&too_low]).await;
    assert!(matches!(error, Error::WrongExpectedVersion { current: Some(3), .. }), "{error}");
}

fn message(cursor: u64) -> String {
    let id = Uuid::from_u128(cursor.into());
    format!(
        ">4\n+message\n+{SUBSCRIPTION}\n:{cursor}\n%11\n+event_id\n+{id}\n+partition_key\n+{id}\n\
         +partition_id\n:1\n+transaction_id\n+{id}\n+partition_sequence\n:0\n+stream_version\n\
         :{cursor}\n+timestamp\n:1\n+stream_id\n$1\ns\n+event_name\n$1\nA\n+metadata\n$0\n\n\
         +payload\n$0\n\n"
    )
}

#[tokio::test]
async fn a_stopping_server_is_waited_for_and_damage_ends_the_subscription() {
    let closed = |why: &str| format!(">3\n+closed\n+{SUBSCRIPTION}\n+{why}\n");
    let begun = format!("+{SUBSCRIPTION}\n");
    let first = format!("{begun}{}{}", message(5), closed("TRYAGAIN the server is stopping"));
    let second = format!("{begun}{}{}", message(6), closed("CORRUPT a record of bucket 3"));
    let server = Scripted::start(&[&first, "-TRYAGAIN the server is stopping\n", &second]).await;
    let client = server.client().await;
    let follow = Follow::stream("s").from_position(5).window(9);
    let mut subscription = client.subscribe(follow).await.expect("begins");
    for version in [5, 6] {
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.event().expect("an event").version, version);
    }
    let error = subscription.next().await.expect("an item").expect_err("the end");
    assert!(matches!(error, Error::Refused { code: Code::Corrupt, .. }), "{error}");
    assert!(subscription.next().await.is_none());
    let from: Vec<String> = server.heard().iter().map(|command| command.join(" ")).collect();
    let wanted = [5, 6, 6].map(|n| format!("ESUB s FROM {n} WINDOW 9"));
    assert_eq!(from, wanted);
}

#[tokio::test]
async fn another_database_at_the_same_address_is_told_and_not_asked() {
    let server = Scripted::start(&["_\n", "", "_\n"]).await;
    let client = server.client().await;
    let id = Uuid::from_u128(7);
    assert!(client.get(id).await.expect("answered").is_none());
    *server.database.lock().expect("sound") = "two".into();
    // The connection breaks, and the next one leads elsewhere.
    let refused = client.get(id).await.expect_err("another database");
    let Error::OtherDatabase { found, expected, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!((found.as_str(), expected.as_str()), ("two", "one"));
    assert_eq!(server.heard().len(), 2, "it was not asked");
}

//! redis-cli, and a socket with a person at it.

mod following;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::programs;
use crate::server_process::ServerProcess;

/// How redis-cli is called.
struct RedisCli<'a> {
    port: String,
    password: Option<&'a str>,
}

impl RedisCli<'_> {
    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.env_remove("REDISCLI_AUTH").args(["-p", &self.port]).args(options);
        if let Some(password) = self.password {
            command.env("REDISCLI_AUTH", password);
        }
        command
    }

    /// Its words for an answer, without the line end.
    fn call(&self, arguments: &[&str]) -> Result<String, String> {
        let out = programs::output(&mut self.command(arguments))?;
        Ok(String::from_utf8_lossy(&out).trim_end().to_owned())
    }

    /// What it says when it is given its input.
    fn feed(&self, options: &[&str], input: &[u8]) -> Result<String, String> {
        let mut command = self.command(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("redis-cli: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input).map_err(|error| format!("redis-cli: {error}"))?;
        }
        let output = child.wait_with_output().map_err(|error| format!("redis-cli: {error}"))?;
        let said = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn json(&self, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let arguments = [&["--json"], arguments].concat();
        let text = self.call(&arguments)?;
        serde_json::from_str(&text).map_err(|error| format!("{arguments:?}: {text}: {error}"))
    }
}

fn expect(what: &str, found: &str, wanted: &str) -> Result<(), String> {
    if found.contains(wanted) {
        return Ok(());
    }
    Err(format!("redis-cli: {what} said {found:?}, expected {wanted:?}"))
}

/// Everything that redis-cli is used for.
pub(super) fn check(server: &ServerProcess, password: Option<&str>) -> Result<(), String> {
    let port = server.address().port().to_string();
    let cli = RedisCli { port, password };
    expect("PING", &cli.call(&["PING"])?, "PONG")?;
    events(&cli)?;
    pipelines(&cli)?;
    server_commands(&cli)?;
    following::check(&cli)?;
    if password.is_some() {
        passwords(&cli)?;
    } else {
        inline(server)?;
    }
    println!(
        "redis-cli: events, pipelines, errors, server, BLOCK, pushes, {}",
        match password {
            Some(_) => "passwords",
            None => "typed lines",
        }
    );
    Ok(())
}

fn events(cli: &RedisCli<'_>) -> Result<(), String> {
    let made = cli.json(&["EAPPEND", "cli", "Made", "PAYLOAD", "{\"a\": 1}", "METADATA", "m"])?;
    let id = made["event_id"].as_str().unwrap_or_default().to_owned();
    let event = cli.json(&["EGET", &id])?;
    let parts = [&event["stream_version"], &event["payload"], &event["metadata"]];
    if parts != [&serde_json::json!(0), &"{\"a\": 1}".into(), &"m".into()] {
        return Err(format!("redis-cli: EGET {id}: {event}"));
    }
    let key = "b5caaf75-d5ce-5289-a5cb-29de88f7c202";
    let many = cli.json(&["EMAPPEND", key, "cli-a", "E", "cli-b", "E"])?;
    if many["events"].as_array().map(Vec::len) != Some(2) {
        return Err(format!("redis-cli: EMAPPEND: {many}"));
    }
    expect("ESCAN", &cli.call(&["ESCAN", "cli", "-", "+"])?, &id)?;
    expect("ESCAN over RESP3", &cli.call(&["-3", "ESCAN", "cli", "-", "+"])?, &id)?;
    expect("EPSCAN", &cli.call(&["EPSCAN", key, "-", "+", "REV"])?, "cli-b")?;
    expect("ESVER", &cli.call(&["ESVER", "cli"])?, "0")?;
    expect("EPSEQ", &cli.call(&["EPSEQ", key])?, &many["last_partition_sequence"].to_string())?;
    for (wanted, command) in [
        (
            "WRONGVER current stream version is 0 but",
            &["EAPPEND", "cli", "E", "EXPECTED_VERSION", "9"][..],
        ),
        ("ERR unknown command 'NOSUCH', with args beginning with: 'x'", &["NOSUCH", "x"]),
        ("ERR wrong number of arguments for 'eget' command", &["EGET"]),
    ] {
        expect("a bad command", &cli.call(command)?, wanted)?;
    }
    let failed = cli.command(&["-e", "EGET"]).output().map_err(|error| error.to_string())?;
    if failed.status.success() {
        return Err("redis-cli -e ends with exit code 0 after an error".into());
    }
    Ok(())
}

fn pipelines(cli: &RedisCli<'_>) -> Result<(), String> {
    // `--pipe` sends everything, then an ECHO, and counts answers until that returns.
    let mut input = Vec::new();
    for number in 0..1000 {
        let number = number.to_string();
        let parts = ["EAPPEND", "cli-pipe", "E", "PAYLOAD", &number];
        input.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            input.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
        }
    }
    expect("--pipe", &cli.feed(&["--pipe"], &input)?, "errors: 0, replies: 1000")?;
    let page = cli.json(&["ESCAN", "cli-pipe", "-", "+", "COUNT", "2000"])?;
    let events = page["events"].as_array().cloned().unwrap_or_default();
    let in_order = events.iter().zip(0_u64..).all(|(event, number)| {
        event["stream_version"] == number
            && event["payload"].as_str().and_then(|text| text.parse().ok()) == Some(number)
    });
    if events.len() != 1000 || !in_order {
        return Err(format!("redis-cli --pipe: {} events, in order: {in_order}", events.len()));
    }
    let typed = b"EAPPEND cli-typed E PAYLOAD \"a b\"\nESVER cli-typed\nEGET\n";
    let said = cli.feed(&[], typed)?;
    expect("a script", &said, "stream_version\n0\n")?;
    expect("a script", &said, "wrong number of arguments")
}

fn server_commands(cli: &RedisCli<'_>) -> Result<(), String> {
    expect("INFO", &cli.call(&["INFO"])?, "actadb_version:")?;
    expect("INFO", &cli.call(&["INFO", "server"])?, "redis_version:7.4.0")?;
    expect("CLIENT SETNAME", &cli.call(&["CLIENT", "SETNAME", "x"])?, "OK")?;
    expect("COMMAND DOCS", &cli.call(&["COMMAND", "DOCS", "EGET"])?, "Reads the event")?;
    expect("COMMAND DOCS", &cli.call(&["-3", "COMMAND", "DOCS"])?, "eappend")?;
    expect("CONFIG GET", &cli.call(&["CONFIG", "GET", "bucket.*"])?, "bucket.count")?;
    let keyspace = cli.call(&["INFO", "keyspace"])?;
    expect("INFO keyspace", &keyspace, &format!("keys={},", cli.call(&["DBSIZE"])?))?;
    expect("-r", &cli.call(&["--raw", "-r", "3", "PING"])?, "PONG\nPONG\nPONG")
}

fn passwords(cli: &RedisCli<'_>) -> Result<(), String> {
    let without = RedisCli { port: cli.port.clone(), password: None };
    let wanted = "NOAUTH Authentication required.";
    expect("a command without the password", &without.call(&["ESVER", "s"])?, wanted)?;
    expect("an unknown one", &without.call(&["NOSUCH"])?, wanted)?;
    expect("AUTH", &without.call(&["AUTH", "wrong"])?, "WRONGPASS")?;
    let password = cli.password.unwrap_or_default();
    expect("AUTH", &without.call(&["AUTH", password])?, "OK")?;
    expect("AUTH", &without.call(&["AUTH", "default", password])?, "OK")?;
    let hello = without.call(&["HELLO", "3", "AUTH", "default", password])?;
    expect("HELLO AUTH", &hello, "actadb")
}

/// What one types into `nc`.
fn inline(server: &ServerProcess) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("typed lines: {error}");
    let mut socket = TcpStream::connect(server.address()).map_err(wrong)?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(wrong)?;
    socket.write_all(b"PING\r\n\r\nping 'a b'\nESVER typed\r\n").map_err(wrong)?;
    socket.write_all(b"eappend typed E payload \"\\x41\\n\"\r\nQUIT\r\n").map_err(wrong)?;
    let mut heard = String::new();
    socket.read_to_string(&mut heard).map_err(wrong)?;
    let begins = heard.starts_with("+PONG\r\n$3\r\na b\r\n$-1\r\n*12\r\n+event_id\r\n");
    if begins && heard.ends_with("+OK\r\n") {
        return Ok(());
    }
    Err(format!("typed lines were answered {heard:?}"))
}

//! check, dump, ping: what an operator types.

use std::path::Path;

use redis::Value;

use crate::support::{Process, actadb, connect_to};

async fn some_events(data: &Path) {
    let server = Process::start(data);
    let mut connection = connect_to(&format!("redis://{}/", server.address)).await;
    for n in 0..20 {
        let mut append = redis::cmd("EAPPEND");
        append.arg(format!("s{}", n % 3)).arg("Happened").arg("PAYLOAD").arg(n);
        let _: Value = append.query_async(&mut connection).await.expect("appends");
    }
    let (exit, stdout, _) = actadb(&["ping", "--client-address", &server.address]);
    assert_eq!(exit, 0);
    assert!(stdout.starts_with("PONG"), "{stdout}");
    // A database in use is left alone, by tools and by a second server.
    let path = data.to_str().expect("a path");
    let (exit, _, stderr) = actadb(&["check", "--dir", path]);
    assert_eq!(exit, 2);
    assert!(stderr.contains("in use by another process"), "{stderr}");
    // Not even its default admin port, which another program may have, is asked for.
    let config = data.with_extension("toml");
    std::fs::write(&config, "[network]\nadmin_address = \"\"\n").expect("written");
    let config = config.to_str().expect("a path");
    let second = ["--dir", path, "--client-address", "127.0.0.1:0", "--config", config];
    let (exit, _, stderr) = actadb(&second);
    assert_eq!(exit, 1);
    assert!(stderr.contains("in use by another process"), "{stderr}");
    assert!(server.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_dump_tell_what_is_there_and_what_is_damaged() {
    let dir = tempfile::tempdir().expect("dir");
    let data = dir.path().join("data");
    some_events(&data).await;
    let path = data.to_str().expect("a path");

    let (exit, stdout, _) = actadb(&["check", "--dir", path]);
    assert_eq!(exit, 0, "{stdout}");
    assert!(stdout.contains("sound: 20 events"), "{stdout}");
    let (exit, stdout, _) = actadb(&["dump", "--dir", path]);
    assert_eq!(exit, 0);
    assert_eq!(stdout.matches("Happened").count(), 20, "{stdout}");
    let (_, stdout, _) = actadb(&["dump", "--dir", path, "--json"]);
    let payloads = stdout.lines().filter(|line| line.contains("\"payload\":\"7\"")).count();
    assert_eq!(payloads, 1, "{stdout}");

    // One flipped byte in the first frame of a bucket that has several.
    let segment = (0..4)
        .map(|bucket| data.join(format!("bucket-00{bucket}/000000000001.segment")))
        .find(|path| path.exists())
        .expect("some bucket has events");
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[4096 + 45] ^= 1;
    std::fs::write(&segment, &bytes).expect("written");
    let (exit, stdout, _) = actadb(&["check", "--dir", path, "--json"]);
    assert_eq!(exit, 1, "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(report["damaged"], true);
    assert!(stdout.contains("000000000001.segment"), "{stdout}");
    let (exit, stdout, _) = actadb(&["dump", "--dir", path]);
    assert_eq!(exit, 1);
    assert!(stdout.contains("DAMAGE"), "{stdout}");

    // The damaged bucket stays closed, named; the others serve.
    let server = Process::start(&data);
    let mut connection = connect_to(&format!("redis://{}/", server.address)).await;
    let (mut closed, mut served) = (0, 0);
    for n in 0..3 {
        let mut scan = redis::cmd("ESCAN");
        scan.arg(format!("s{n}")).arg("-").arg("+");
        match scan.query_async::<Value>(&mut connection).await {
            Ok(_) => served += 1,
            Err(error) => {
                assert_eq!(error.code(), Some("CORRUPT"), "{error}");
                closed += 1;
            }
        }
    }
    assert!(closed > 0 && closed + served == 3, "{closed} closed, {served} served");
    let (exit, _, stderr) = actadb(&["check", "--dir", "/no/such/dir"]);
    assert_eq!(exit, 2);
    assert!(stderr.contains("holds no database"), "{stderr}");
    let (exit, _, stderr) = actadb(&["ping", "--client-address", "127.0.0.1:1"]);
    assert_eq!(exit, 1);
    assert!(stderr.contains("127.0.0.1:1"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_tells_what_would_be_lost_and_gives_it_up_only_when_told() {
    let dir = tempfile::tempdir().expect("dir");
    let data = dir.path().join("data");
    some_events(&data).await;
    let path = data.to_str().expect("a path");
    let (exit, stdout, _) = actadb(&["repair", "--dir", path]);
    assert_eq!(exit, 0, "{stdout}");
    assert!(stdout.contains("sound: 20 events; there was nothing to mend"), "{stdout}");

    // The third frame of bucket 0 begins where the second one ends; the first begins the term.
    let segment = data.join("bucket-000/000000000001.segment");
    let mut bytes = std::fs::read(&segment).expect("read");
    let frame_bytes = |at: usize| {
        let body = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four"));
        (40 + body as usize).next_multiple_of(8)
    };
    let second = 4096 + frame_bytes(4096);
    let third = second + frame_bytes(second);
    bytes[third + 45] ^= 1;
    std::fs::write(&segment, &bytes).expect("written");
    let (exit, stdout, _) = actadb(&["repair", "--dir", path]);
    assert_eq!(exit, 1, "{stdout}");
    for words in [
        format!("000000000001.segment at byte {third}: not a frame, entry 3 expected"),
        "must end before the damage: with entry 2".to_owned(),
        "LOSES entries 3 to ".to_owned(),
        "LOSES partition ".to_owned(),
        "can still be read: `actadb dump".to_owned(),
        "nothing was changed".to_owned(),
    ] {
        assert!(stdout.contains(&words), "{words}: {stdout}");
    }
    assert_eq!(std::fs::read(&segment).expect("read"), bytes);
    let (exit, stdout, _) = actadb(&["repair", "--dir", path, "--json"]);
    assert_eq!(exit, 1, "{stdout}");
    let plan: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(plan["changed"], false);
    assert_eq!(plan["buckets"][0]["loss"]["entries"]["from"], 3);

    let (exit, stdout, _) = actadb(&["repair", "--dir", path, "--json", "--accept-data-loss"]);
    assert_eq!(exit, 0, "{stdout}");
    let done: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(done["sound"], true);
    let kept = Path::new(done["kept_in"].as_str().expect("told"));
    let original = kept.join("bucket-000/000000000001.segment");
    assert_eq!(std::fs::read(original).expect("kept"), bytes);
    let (exit, stdout, _) = actadb(&["check", "--dir", path]);
    assert_eq!(exit, 0, "{stdout}");
    assert!(stdout.contains("2 frames, 1 records, 1 events") && stdout.contains("sound: 14"));

    // It serves and goes on; a database in use is left alone.
    let server = Process::start(&data);
    let mut connection = connect_to(&format!("redis://{}/", server.address)).await;
    for n in 0..3 {
        let mut append = redis::cmd("EAPPEND");
        append.arg(format!("s{n}")).arg("Happened").arg("PAYLOAD").arg(n);
        let _: Value = append.query_async(&mut connection).await.expect("appends");
    }
    let (exit, _, stderr) = actadb(&["repair", "--dir", path]);
    assert_eq!(exit, 2);
    assert!(stderr.contains("in use by another process"), "{stderr}");
    assert!(server.terminate());
    let (_, stdout, _) = actadb(&["check", "--dir", path]);
    assert!(stdout.contains("sound: 17 events"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_repaired_hides_nothing_that_was_done() {
    let dir = tempfile::tempdir().expect("dir");
    let data = dir.path().join("data");
    some_events(&data).await;
    let path = data.to_str().expect("a path");
    let spoil = |bucket: &str| {
        let slots = data.join(bucket).join("slots");
        let mut bytes = std::fs::read(&slots).expect("read");
        bytes[20] ^= 1;
        std::fs::write(&slots, &bytes).expect("written");
    };
    // A start removes the index of the newest segment; a directory is not removed.
    let obstacle = data.join("bucket-000/000000000001.index");
    std::fs::create_dir(&obstacle).expect("created");
    spoil("bucket-000");
    spoil("bucket-001");
    let (exit, stdout, stderr) = actadb(&["repair", "--dir", path]);
    assert_eq!(exit, 2, "{stdout} {stderr}");
    assert!(
        stdout.contains("bucket 1 ") && stdout.contains("wrote the slot at byte 0"),
        "{stdout}"
    );
    assert!(stdout.contains("not all is mended"), "{stdout}");
    assert!(stderr.contains("bucket 0 cannot be repaired: "), "{stderr}");

    spoil("bucket-002");
    let (exit, stdout, _) = actadb(&["repair", "--dir", path, "--json"]);
    assert_eq!(exit, 2, "{stdout}");
    let done: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&done["changed"], &done["sound"]), (&true.into(), &false.into()));
    assert_eq!(done["done"][0]["bucket"], 2);
    assert_eq!(done["failed"][0]["bucket"], 0);
    assert_eq!(done["events"], 20);

    std::fs::remove_dir(&obstacle).expect("removed");
    let (exit, stdout, _) = actadb(&["repair", "--dir", path]);
    assert_eq!(exit, 0, "{stdout}");
}

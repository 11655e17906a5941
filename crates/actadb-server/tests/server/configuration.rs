//! The layers of the configuration and the words of its errors.

use std::collections::HashMap;
use std::path::Path;

use actadb_server::settings::Settings;
use actadb_server::settings_load::{Flags, Loaded, Origin, load, load_file};

use crate::support::actadb;

fn with(file: &str, variables: &[(&str, &str)], flags: Flags) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("my.toml");
    std::fs::write(&path, file).expect("written");
    let variables: HashMap<String, String> =
        variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let flags = Flags { config: Some(path), ..flags };
    load(&flags, Some(variables)).map_err(|error| error.to_string())
}

#[test]
fn the_default_file_says_what_the_code_says_and_names_every_key() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/default.toml"));
    let loaded = load_file(path).expect("a good file");
    assert_eq!(loaded.settings, Settings::default());
    let missing: Vec<_> =
        loaded.origins.iter().filter(|(_, origin)| **origin == Origin::Default).collect();
    assert!(missing.is_empty(), "keys the file does not name: {missing:?}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "dir = \"/file\"\n[segment]\nsize_bytes = 1048576\n[append]\ntimeout_ms = 5";
    let variables = [
        ("ACTADB_SEGMENT__SIZE_BYTES", "2097152"),
        ("ACTADB_DIR", "/environment"),
        ("ACTADB_AUTH__PASSWORD", "007"),
    ];
    let flags = Flags { dir: Some("/flag".into()), ..Flags::default() };
    let loaded = with(file, &variables, flags).expect("good");
    assert_eq!(loaded.settings.dir, Path::new("/flag"));
    assert_eq!(loaded.settings.segment.size_bytes, 2 << 20);
    assert_eq!(loaded.settings.append.timeout_ms, 5);
    assert_eq!(loaded.settings.auth.password, "007", "a password stays text");
    assert_eq!(loaded.origins["dir"], Origin::Flag);
    let variable = Origin::Environment("ACTADB_SEGMENT__SIZE_BYTES".into());
    assert_eq!(loaded.origins["segment.size_bytes"], variable);
    assert!(matches!(loaded.origins["append.timeout_ms"], Origin::File(_)));
    assert_eq!(loaded.origins["log"], Origin::Default);
}

#[test]
fn mistakes_are_told_by_key_and_place() {
    let plain = |file: &str| with(file, &[], Flags::default()).expect_err(file);
    let error = plain("[network]\nclient_adress = \"x\"");
    assert!(error.contains("unknown key 'network.client_adress'"), "{error}");
    assert!(error.contains("my.toml") && error.contains("network.client_address"), "{error}");
    let error = plain("[segment]\nsize_bytes = \"256MB\"");
    assert!(error.contains("segment.size_bytes") && error.contains("my.toml"), "{error}");
    let error = plain("[network]\nclient_address = \"localhost\"");
    assert!(error.contains("network.client_address") && error.contains("'localhost'"), "{error}");
    let error = plain("[fsync]\nmode = \"sometimes\"");
    assert!(error.contains("fsync.mode") || error.contains("sometimes"), "{error}");
    let error = plain("[partition]\ncount = 70000");
    assert!(error.contains("partition.count"), "{error}");
    for (file, key) in [
        ("[segment]\nsize_bytes = 5", "segment.size_bytes: must be"),
        ("[segment]\nzero_fill_bytes = 5", "segment.zero_fill_bytes: must be"),
        ("[append]\npermit_bytes = 5", "append.permit_bytes: must be"),
        ("[bucket]\ncount = 0", "bucket.count: must be"),
        ("[partition]\ncount = 0", "partition.count: must be"),
    ] {
        let error = plain(file);
        assert!(error.contains(key) && error.contains("my.toml"), "{error}");
    }
    let error = plain("[network]\ndefault_protocol = 4");
    assert!(error.contains("must be 2 or 3, got 4"), "{error}");
    let error = plain("this is no toml");
    assert!(error.contains("my.toml"), "{error}");
    let error = with("", &[("ACTADB_SEGMENT__SIZE", "1")], Flags::default()).expect_err("bad");
    assert!(error.contains("ACTADB_SEGMENT__SIZE"), "{error}");
}

#[test]
fn listening_to_the_world_needs_a_password_or_a_word() {
    let world = "[network]\nclient_address = \"0.0.0.0:9090\"";
    let error = with(world, &[], Flags::default()).expect_err("refused");
    assert!(error.contains("--allow-unauthenticated"), "{error}");
    let allowed = Flags { allow_unauthenticated: true, ..Flags::default() };
    assert!(with(world, &[], allowed).is_ok());
    assert!(with(world, &[("ACTADB_AUTH__PASSWORD", "x")], Flags::default()).is_ok());
}

#[test]
fn the_binary_exits_with_2_and_shows_where_values_come_from() {
    let (exit, _, stderr) = actadb(&["--client-address", "nowhere"]);
    assert_eq!(exit, 2);
    assert!(stderr.contains("network.client_address") && stderr.contains("flag"), "{stderr}");
    let (exit, _, stderr) = actadb(&["--config", "/no/such/file.toml"]);
    assert_eq!(exit, 2);
    assert!(stderr.contains("/no/such/file.toml"), "{stderr}");
    let (exit, _, _) = actadb(&["--no-such-flag"]);
    assert_eq!(exit, 2);
    let (exit, stdout, _) = actadb(&["config", "show", "--dir", "/somewhere"]);
    assert_eq!(exit, 0);
    assert!(stdout.contains("dir = \"/somewhere\"") && stdout.contains("# flag"), "{stdout}");
    assert!(stdout.contains("segment.size_bytes = 268435456"), "{stdout}");
}

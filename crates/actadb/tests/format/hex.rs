//! Directories as text: what is not zero in their files, 32 bytes a line.
//!
//! ```text
//! file bucket-000/slots 8192
//! 0 41435441534c4f54...
//! ```

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const LINE_BYTES: usize = 32;

/// The text of a directory.
#[allow(dead_code, reason = "only the example writes")]
pub(crate) fn dump(dir: &Path) -> String {
    let mut text = String::new();
    put_dir(dir, dir, &mut text);
    text
}

fn put_dir(root: &Path, dir: &Path, text: &mut String) {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("a name").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            put_dir(root, &path, text);
            continue;
        }
        let bytes = fs::read(&path).expect("a file");
        let name = path.strip_prefix(root).expect("below").to_str().expect("a name");
        writeln!(text, "file {name} {}", bytes.len()).expect("memory");
        for (line, bytes) in bytes.chunks(LINE_BYTES).enumerate() {
            if bytes.iter().any(|byte| *byte != 0) {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "{:x} {hex}", line * LINE_BYTES).expect("memory");
            }
        }
    }
}

/// Makes a directory from its text.
#[allow(dead_code, reason = "only the test reads")]
pub(crate) fn load(text: &str, dir: &Path) {
    let mut file: Option<File> = None;
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("file ") {
            let (name, length) = of.rsplit_once(' ').expect("a name and a length");
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("a directory");
            let made = File::create(path).expect("a file");
            made.set_len(length.parse().expect("a length")).expect("space");
            file = Some(made);
            continue;
        }
        let (offset, hex) = line.split_once(' ').expect("an offset and bytes");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
            .collect();
        let offset = u64::from_str_radix(offset, 16).expect("an offset");
        file.as_ref().expect("a file comes first").write_all_at(&bytes, offset).expect("written");
    }
}

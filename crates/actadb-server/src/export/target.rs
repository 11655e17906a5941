//! Where an export goes: standard output, or a file that is there when it is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::wire_client::WireEvent;

/// Bytes written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Takes lines. Dropped before [`finish`](Self::finish) it leaves no file behind.
pub(super) struct Target {
    out: BufWriter<Box<dyn Write>>,
    /// The file under its temporary name, and the name it will have.
    file: Option<(File, PathBuf, PathBuf)>,
}

impl Target {
    /// Opens it: `-` is standard output. A device or a pipe is written directly.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        if name == "-" {
            return Ok(Self::over(Box::new(io::stdout()), None));
        }
        let path = Path::new(name);
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => {
                let out = File::options().write(true).open(path)?;
                return Ok(Self::over(Box::new(out), None));
            }
            _ => {}
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished)?;
        let out = Box::new(file.try_clone()?);
        Ok(Self::over(out, Some((file, unfinished, path.to_owned()))))
    }

    fn over(out: Box<dyn Write>, file: Option<(File, PathBuf, PathBuf)>) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER_BYTES, out), file }
    }

    /// Writes the line of an event; its length.
    pub(super) fn line(&mut self, event: &WireEvent) -> io::Result<u64> {
        let mut line = event.line()?;
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        Ok(line.len() as u64)
    }

    /// Makes it last, under its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some((file, unfinished, path)) = &self.file {
            file.sync_all()?;
            fs::rename(unfinished, path)?;
            self.file = None;
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((_, unfinished, _)) = &self.file {
            let _ = fs::remove_file(unfinished);
        }
    }
}

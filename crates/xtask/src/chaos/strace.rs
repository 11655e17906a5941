//! strace on a running server: it tells what system calls happen, and makes some of them fail.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::resp::said;
use crate::programs;
use crate::server_process::wait;

/// A strace that is attached. It lets go when this is dropped.
#[derive(Debug)]
pub(super) struct Strace {
    child: Child,
    out: PathBuf,
}

impl Strace {
    /// Attaches to a process (with `-f` among the options: with all its threads) or to one thread.
    pub(super) fn attach(options: &[&str], id: u32, out: &Path) -> Result<Self, String> {
        let mut command = Command::new("strace");
        command.args(options).arg("-o").arg(out).args(["-p", &id.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let stderr = child.stderr.take();
        let strace = Self { child, out: out.to_owned() };
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines());
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut heard = String::new();
        loop {
            match lines.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains("attached") => return Ok(strace),
                Ok(line) => heard.push_str(&line),
                Err(_) => {
                    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
                    let scope = scope.unwrap_or_else(|_| "not there".into());
                    return Err(format!(
                        "strace could not attach: {heard} (kernel.yama.ptrace_scope is {}; it must \
                         be 0, or the user root)",
                        scope.trim()
                    ));
                }
            }
        }
    }

    /// The lines of the trace so far.
    pub(super) fn lines(&self) -> Result<Vec<Line>, String> {
        let text = std::fs::read(&self.out).map_err(said)?;
        Ok(parse(&String::from_utf8_lossy(&text)))
    }

    /// Lets go, and gives the lines of the trace.
    pub(super) fn detach(mut self) -> Result<Vec<Line>, String> {
        programs::signal("INT", self.child.id())?;
        wait(&mut self.child, Duration::from_secs(10))?;
        self.lines()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Asked, it lets its tracees go on; killed, too, but a little later.
            let _ = programs::signal("INT", self.child.id());
            if wait(&mut self.child, Duration::from_secs(5)).is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// One beginning or end of a system call, in the order in which strace saw them.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// Name of the call.
    pub(super) call: String,
    /// What `-y` tells of its descriptor.
    pub(super) file: String,
    /// Its arguments.
    pub(super) arguments: String,
    /// Whether the call begins here.
    pub(super) begins: bool,
    /// What it returned, if it ends here.
    pub(super) returned: Option<i64>,
    /// Whether strace made it fail.
    pub(super) injected: bool,
}

/// Lines of a trace: `[thread] [time] call(fd<file>, arguments) = returned`, or such a line in
/// two parts when another thread came between.
fn parse(trace: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut unfinished = std::collections::HashMap::new();
    for text in trace.lines() {
        // Thread and time stand in front where the options ask for them.
        let number = |c: char| c.is_ascii_digit() || c == '.' || c == ' ';
        let body = text.trim_start_matches(number);
        let thread = text.split(' ').next().unwrap_or_default();
        if let Some(resumed) = body.strip_prefix("<... ") {
            let Some(begun) = unfinished.remove(thread) else { continue };
            let begun: Line = begun;
            let arguments = begun.arguments + resumed;
            lines.push(Line { begins: false, returned: end(resumed), arguments, ..begun });
            continue;
        }
        let Some((call, rest)) = body.split_once('(') else { continue };
        if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let file = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let mut line = Line {
            call: call.to_owned(),
            file: file.map_or("", |(file, _)| file).to_owned(),
            arguments: rest.to_owned(),
            begins: true,
            returned: None,
            injected: rest.ends_with("(INJECTED)"),
        };
        if rest.ends_with("<unfinished ...>") {
            unfinished.insert(thread.to_owned(), line.clone());
        } else {
            line.returned = end(rest);
        }
        lines.push(line);
    }
    lines
}

/// The number behind the last ` = `.
fn end(text: &str) -> Option<i64> {
    text.rsplit_once(") ")?;
    let (_, returned) = text.rsplit_once(" = ")?;
    returned.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_and_split_calls_are_read() {
        let trace = "\
10 1700000000.1 recvfrom(9<socket:[7]>, \"*5\\r\\n$7\\r\\nEAPPEND\"..., 4096, 0, NULL, NULL) = 90
11 1700000000.2 fdatasync(4</d/bucket-000/1.segment> <unfinished ...>
10 1700000000.3 sendto(9<socket:[7]>, \"x = 1\", 5, 0, NULL, 0) = 5
11 1700000000.4 <... fdatasync resumed>) = 0
11 1700000000.5 fdatasync(4</d/1.segment>) = -1 EIO (Input/output error) (INJECTED)
";
        let lines = parse(trace);
        assert_eq!(lines.len(), 5);
        assert_eq!((lines[0].call.as_str(), lines[0].returned), ("recvfrom", Some(90)));
        assert!(lines[1].begins && lines[1].returned.is_none());
        assert_eq!(lines[2].file, "socket:[7]");
        assert!(!lines[3].begins && lines[3].returned == Some(0));
        assert_eq!(lines[3].file, "/d/bucket-000/1.segment");
        assert!(lines[4].injected && lines[4].returned == Some(-1));
    }
}

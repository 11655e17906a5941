//! Three small files beside the data: who this node is, what its cluster fixed at its birth, and
//! which starts of the other nodes it has seen.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use actadb_disk::disk::Disk;
use actadb_membership::record::{HISTORY_MAX, Record, Start};
use actadb_store::meta::lock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::OpenError;

/// Version of the identity's file: who knows only lower ones refuses it, and leaves it as it is.
const IDENTITY_VERSION: u16 = 1;

/// Who a node is. Lost with its disk, and never made again for the same node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeIdentity {
    #[serde(default)]
    version: u16,
    /// Names its storage.
    pub(crate) storage: Uuid,
    /// Raised at each start.
    pub(crate) boot: u64,
    /// What was drawn at the last starts, this one last.
    #[serde(default)]
    pub(crate) history: Vec<u64>,
    /// Its key in the network.
    pub(crate) key: Vec<u8>,
    /// Whether its data was made: if it is gone, it was lost.
    #[serde(default)]
    pub(crate) created: bool,
    /// What this version does not know; it is written again as it was.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl NodeIdentity {
    /// That of a node which was never started.
    pub(crate) fn new(storage: Uuid, key: Vec<u8>) -> Self {
        let (version, unknown) = (IDENTITY_VERSION, Map::new());
        Self { version, storage, boot: 0, history: Vec::new(), key, created: false, unknown }
    }
}

pub(crate) fn identity_path(dir: &Path) -> PathBuf {
    dir.join("node.json")
}

pub(crate) fn record_path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

/// The identity, if there is one.
pub(crate) fn read_identity(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<Option<NodeIdentity>, OpenError> {
    let path = identity_path(dir);
    // Its version first: of a newer one nothing else need be as this version knows it.
    let any: Option<Map<String, Value>> = read(disk, &path)?;
    let version = any.as_ref().and_then(|any| any.get("version")?.as_u64()).unwrap_or(0);
    if version > u64::from(IDENTITY_VERSION) {
        return Err(OpenError::Cluster(format!(
            "{} has version {version}, this ActaDB knows versions up to {IDENTITY_VERSION}: use \
             a newer one; nothing is changed",
            path.display()
        )));
    }
    read(disk, &path)
}

/// Notes that the data of this node is made.
pub(crate) fn note_created(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    match read_identity(disk, dir)? {
        Some(identity) if !identity.created => {
            write(disk, &identity_path(dir), &NodeIdentity { created: true, ..identity })
        }
        _ => Ok(()),
    }
}

/// Reads the identity, or makes one, and counts this start, which has drawn `process`: not while
/// another process has the directory.
pub(crate) fn start_identity(
    disk: &dyn Disk,
    dir: &Path,
    process: u64,
    new: impl FnOnce() -> NodeIdentity,
) -> Result<NodeIdentity, OpenError> {
    disk.create_dir_all(dir).map_err(|error| failed("create", dir, &error))?;
    let _lock = lock(disk, dir)?;
    let path = identity_path(dir);
    let mut identity = read_identity(disk, dir)?.unwrap_or_else(new);
    identity.version = IDENTITY_VERSION;
    identity.boot += 1;
    identity.history.push(process);
    let forgotten = identity.history.len().saturating_sub(HISTORY_MAX);
    identity.history.drain(..forgotten);
    write(disk, &path, &identity)?;
    Ok(identity)
}

pub(crate) fn read_record(disk: &dyn Disk, dir: &Path) -> Result<Option<Record>, OpenError> {
    read(disk, &record_path(dir))
}

pub(crate) fn write_record(disk: &dyn Disk, dir: &Path, record: &Record) -> Result<(), OpenError> {
    write(disk, &record_path(dir), record)
}

/// The starts of other nodes that were seen, by number: see [`Members::starts`]
/// (actadb_membership::members::Members::starts). One process writes it, one write at a time.
#[derive(Debug)]
pub(crate) struct StartsFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    one: Mutex<()>,
}

impl StartsFile {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, path: dir.join("starts.json"), one: Mutex::new(()) }
    }

    pub(crate) fn read(&self) -> Result<Vec<Start>, OpenError> {
        Ok(read(&*self.disk, &self.path)?.unwrap_or_default())
    }

    pub(crate) fn write(&self, starts: &[Start]) -> Result<(), OpenError> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        write(&*self.disk, &self.path, &starts)
    }
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Cluster(format!("cannot {what} {}: {error}", path.display()))
}

/// Largest of the two files.
const FILE_MAX_BYTES: usize = 64 << 10;

fn read<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, OpenError> {
    if !disk.exists(path).map_err(|error| failed("look for", path, &error))? {
        return Ok(None);
    }
    let file = disk.open_read(path).map_err(|error| failed("open", path, &error))?;
    let mut bytes = vec![0; FILE_MAX_BYTES];
    let n = file.read_full_at(&mut bytes, 0).map_err(|error| failed("read", path, &error))?;
    bytes.truncate(n);
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed("understand", path, &error))
}

/// Replaces a file: a temporary one, synced, renamed, its directory synced.
fn write(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<(), OpenError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| failed("write", path, &e))?;
    let temporary = path.with_extension("json-new");
    let replace = || {
        if disk.exists(&temporary)? {
            disk.remove(&temporary)?;
        }
        // A key lies in one of them.
        let file = disk.create_private(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        disk.rename(&temporary, path)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
    };
    replace().map_err(|error: std::io::Error| failed("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actadb_disk::sim::SimDisk;

    #[test]
    fn an_identity_is_made_once_and_counts_its_starts() {
        let (disk, dir) = (SimDisk::new(), Path::new("/db"));
        let new = || NodeIdentity::new(Uuid::from_u128(7), vec![1, 2]);
        assert_eq!(start_identity(&disk, dir, 1, new).expect("made").boot, 1);
        let other = || NodeIdentity::new(Uuid::from_u128(8), vec![3]);
        let again = start_identity(&disk, dir, 1, other).expect("read");
        assert_eq!((again.boot, again.storage), (2, Uuid::from_u128(7)));

        let lock = lock(&disk, dir).expect("free");
        assert!(start_identity(&disk, dir, 1, other).is_err(), "another process has it");
        drop(lock);
        let text = |change: &str| {
            disk.damage(&identity_path(dir), |bytes| {
                let text = String::from_utf8(bytes.clone()).expect("JSON");
                *bytes = text.replacen("\"version\": 1", change, 1).into_bytes();
            });
            disk.contents(&identity_path(dir)).expect("there")
        };
        text("\"zone\": \"b\", \"version\": 1");
        assert_eq!(start_identity(&disk, dir, 1, other).expect("read").boot, 3);
        note_created(&disk, dir).expect("written");
        let kept = text("\"version\": 2");
        assert!(String::from_utf8_lossy(&kept).contains("\"zone\": \"b\""), "it is kept");
        let refused = start_identity(&disk, dir, 1, other).expect_err("newer");
        assert!(refused.to_string().contains("version 2"), "{refused}");
        assert_eq!(disk.contents(&identity_path(dir)), Some(kept), "it is as it was");
        disk.damage(&identity_path(dir), |bytes| bytes[0] = b'x');
        assert!(start_identity(&disk, dir, 1, other).is_err(), "damage is not a new node");
    }
}

//! Files of blocks of 4 KiB: reading one, laying out rows, putting a whole file in its place.

use std::path::{Path, PathBuf};

use actadb_disk::disk::{Disk, DiskFile};
use actadb_model::probe::{Mistake, made};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::IndexError;
use crate::format::{BLOCK_BYTES, BLOCK_PAYLOAD, block_checksum, per_block};

pub(crate) type Block = [u8; BLOCK_BYTES];

/// Rows of one type: the first block, and how many rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) block: u64,
    pub(crate) count: usize,
}

/// What a block holds a row of.
pub(crate) trait Entry: FromBytes + KnownLayout + Immutable + Unaligned + 'static {}
impl<T: FromBytes + KnownLayout + Immutable + Unaligned + 'static> Entry for T {}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawPlace(pub(crate) zerocopy::little_endian::U32);

/// The entries of a table that lie in `block`, from entry `at` of the table on.
pub(crate) fn entries<T: Entry>(block: &Block, table: Table, at: usize) -> &[T] {
    let rows = per_block::<T>();
    let start = at / rows * rows;
    let used = rows.min(table.count.saturating_sub(start));
    let bytes = &block[..used * size_of::<T>()];
    let all = <[T]>::ref_from_bytes(bytes).unwrap_or(&[]);
    all.get(at - start..).unwrap_or(&[])
}

/// Reads a block and compares its checksum.
pub(crate) fn verified_block(
    file: &dyn DiskFile,
    path: &Path,
    seed: u32,
    number: u64,
) -> Result<Box<Block>, IndexError> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    let offset = number * BLOCK_BYTES as u64;
    let n = file.read_full_at(&mut *block, offset).map_err(IndexError::io("read", path))?;
    let damaged = |what| IndexError::Damaged { path: path.to_owned(), offset, what };
    if n < BLOCK_BYTES {
        return Err(damaged("the file ends inside a block"));
    }
    let stored =
        u32::from_le_bytes(block[BLOCK_PAYLOAD..].try_into().map_err(|_| damaged("no checksum"))?);
    let good = stored == block_checksum(seed, number, &block[..BLOCK_PAYLOAD]);
    if !good && !made(Mistake::IndexTrusted) {
        return Err(damaged("the block's checksum is wrong"));
    }
    Ok(block)
}

/// Puts a file in its place: a temporary one, synced, renamed, its directory synced. A temporary
/// file may be left behind by a failure, and is removed by the next attempt.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), IndexError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push("-new");
    let temporary = PathBuf::from(temporary);
    if disk.exists(&temporary).map_err(IndexError::io("look for", &temporary))? {
        disk.remove(&temporary).map_err(IndexError::io("remove", &temporary))?;
    }
    let file = disk.create(&temporary).map_err(IndexError::io("create", &temporary))?;
    file.write_all_at(bytes, 0).map_err(IndexError::io("write", &temporary))?;
    file.sync_data().map_err(IndexError::io("sync", &temporary))?;
    disk.rename(&temporary, path).map_err(IndexError::io("rename", path))?;
    disk.sync_dir(dir).map_err(IndexError::io("sync", dir))
}

/// Appends rows in blocks with checksums.
pub(crate) fn put_rows<'a, T: IntoBytes + Immutable + 'a>(
    bytes: &mut Vec<u8>,
    seed: u32,
    rows: impl Iterator<Item = &'a T>,
) {
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let start = bytes.len();
        for row in rows.by_ref().take(per_block::<T>()) {
            bytes.extend_from_slice(row.as_bytes());
        }
        bytes.resize(start + BLOCK_PAYLOAD, 0);
        let number = (start / BLOCK_BYTES) as u64;
        let checksum = block_checksum(seed, number, &bytes[start..]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
    }
}

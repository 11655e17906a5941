//! Segment files by name.

use std::path::{Path, PathBuf};

use actadb_disk::disk::{Disk, DiskFile};

use crate::error::{Damage, LogError};
use crate::format::{HeaderRead, LogIdentity, SEGMENT_HEADER_BYTES, SegmentHeader};

const SUFFIX: &str = ".segment";

/// Path of a segment.
#[must_use]
pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}{SUFFIX}"))
}

/// Numbers of the segment files in a directory, ascending.
///
/// # Errors
/// What the device says.
pub fn segment_numbers(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let names = disk.list(dir).map_err(LogError::io("list", dir))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| Some((name, name.strip_suffix(SUFFIX)?.parse().ok()?)))
        // A stray `1.segment` is none of ours.
        .filter(|(name, number)| segment_path(Path::new(""), *number) == Path::new(name))
        .map(|(_, number)| number)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads a segment's header and refuses one that is not this log's.
///
/// # Errors
/// A newer format, a foreign segment, or what the device says. A header that is no header at all
/// is `Ok(None)`: what that means depends on where the segment stands.
pub fn read_header(
    file: &dyn DiskFile,
    path: &Path,
    identity: LogIdentity,
) -> Result<Option<SegmentHeader>, LogError> {
    let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
    let n = file.read_full_at(&mut block, 0).map_err(LogError::io("read", path))?;
    match SegmentHeader::decode(&block[..n]) {
        HeaderRead::Bad => Ok(None),
        HeaderRead::Newer(found) => Err(LogError::NewerFormat {
            path: path.to_owned(),
            found,
            known: crate::format::FORMAT_VERSION,
        }),
        HeaderRead::Good(header) if header.identity != identity => Err(LogError::Foreign {
            path: path.to_owned(),
            found: header.identity.to_string(),
            expected: identity.to_string(),
        }),
        HeaderRead::Good(header)
            if segment_path(Path::new(""), header.number)
                != Path::new(path.file_name().unwrap_or_default()) =>
        {
            let what = format!("the file holds segment {}", header.number);
            Err(Damage::new(path, 0, what).into())
        }
        HeaderRead::Good(header) => Ok(Some(header)),
    }
}

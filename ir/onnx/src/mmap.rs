//! Files as shared bytes: mapped when large, read when small. The crate's only `unsafe` code.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use tandem_onnx_proto::Blob;

use crate::fault::Fault;

/// Files up to this many bytes are read: cheaper than a map, and safe from others who shorten the file.
const READ_BYTES_MAX: u64 = 256 << 10;

/// Opens a regular file; refuses folders, pipes and devices before opening them, for opening a pipe would wait.
pub(crate) fn open(path: &Path) -> Result<File, Fault> {
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

fn regular(metadata: &fs::Metadata) -> Result<(), Fault> {
    match metadata {
        m if m.is_file() => Ok(()),
        m if m.is_dir() => Err(Fault::NotAFile { found: "a folder" }),
        _ => Err(Fault::NotAFile { found: "a device, pipe or socket" }),
    }
}

/// The file's bytes. Weights in them cost no memory but the page cache's.
pub(crate) fn load(mut file: File) -> io::Result<Blob> {
    let len = file.metadata()?.len();
    if len > READ_BYTES_MAX {
        return Ok(Blob::whole(std::sync::Arc::new(map(&file)?)));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    Read::by_ref(&mut file).take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the map is read-only and shared as plain bytes, whose every value is valid. What remains is that another
    // process may change or shorten the file meanwhile: then values change or the process gets SIGBUS. No interface can
    // prevent that; tools that make models write a new file or replace the old one, which leaves a map intact.
    unsafe { memmap2::Mmap::map(file) }
}

//! Maps of the kernel that are pinned to files.
//!
//! Opening a pin takes the file's rights and looking up takes the descriptor: no capability, so Envoy keeps none for it.

use std::convert::TryInto;
use std::ffi::CString;
use std::io::Error;
use std::os::raw::{c_int, c_long, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(target_arch = "aarch64")]
const SYS_BPF: c_long = 280;

// linux/bpf.h
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_OBJ_GET: c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: c_int = 15;
pub const BPF_F_RDONLY: u32 = 1 << 3;
pub const BPF_MAP_TYPE_ARRAY: u32 = 2;
pub const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
pub const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;

extern "C" {
    fn syscall(number: c_long, command: c_int, attributes: *mut u8, size: c_uint) -> c_long;
}

/// A descriptor of the map behind the pin at `path`, and the map's id. `layout` is what it must have: its type, and the
/// sizes of its keys and values.
pub fn open(path: &Path, layout: [u32; 3], flags: u32) -> Result<(OwnedFd, u32), String> {
    let named = CString::new(path.as_os_str().as_bytes()).map_err(|_| "the path holds a zero byte".to_string())?;
    let mut attributes = [0u8; 16];
    attributes[..8].copy_from_slice(&(named.as_ptr() as u64).to_ne_bytes());
    attributes[12..].copy_from_slice(&flags.to_ne_bytes());
    let fd = bpf(BPF_OBJ_GET, &mut attributes).map_err(|error| format!("{}: {error}", path.display()))?;
    let fd = unsafe { OwnedFd::from_raw_fd(fd as c_int) };
    let [kind, id, key, value] = info(&fd).map_err(|error| format!("{}: {error}", path.display()))?;
    if [kind, key, value] != layout {
        return Err(format!("{} is not a map of this version", path.display()));
    }
    Ok((fd, id))
}

/// Fills `value` with what the map has for `key`; both have the sizes that it was opened with.
pub fn look_up(map: &OwnedFd, key: &[u8], value: &mut [u8]) -> Result<(), Error> {
    let mut attributes = [0u8; 32];
    attributes[..4].copy_from_slice(&map.as_raw_fd().to_ne_bytes());
    attributes[8..16].copy_from_slice(&(key.as_ptr() as u64).to_ne_bytes());
    attributes[16..24].copy_from_slice(&(value.as_mut_ptr() as u64).to_ne_bytes());
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes)?;
    Ok(())
}

/// type, id, key size and value size
fn info(map: &OwnedFd) -> Result<[u32; 4], Error> {
    let mut info = [0u8; 16];
    let mut attributes = [0u8; 16];
    attributes[..4].copy_from_slice(&map.as_raw_fd().to_ne_bytes());
    attributes[4..8].copy_from_slice(&(info.len() as u32).to_ne_bytes());
    attributes[8..].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let word = |at: usize| u32::from_ne_bytes(info[4 * at..4 * at + 4].try_into().unwrap());
    Ok([word(0), word(1), word(2), word(3)])
}

/// bpf(2). Whatever `attributes` points to must be alive.
fn bpf(command: c_int, attributes: &mut [u8]) -> Result<c_long, Error> {
    let result = unsafe { syscall(SYS_BPF, command, attributes.as_mut_ptr(), attributes.len() as c_uint) };
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok(result)
}

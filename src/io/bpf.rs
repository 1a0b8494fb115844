//! bpf(2): programs and maps.

use super::sys;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
#[cfg(test)]
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;

const BPF_F_MMAPABLE: u32 = 1 << 10;
/// The element must not be there yet.
const BPF_NOEXIST: u64 = 1;

/// `struct bpf_insn` (<https://docs.kernel.org/bpf/standardization/instruction-set.html>).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub code: u8,
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// What a program is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ProgramKind {
    /// Of a socket.
    SocketFilter = 1,
    /// Of tc.
    Classifier = 3,
}

/// What a map is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
}

/// `union bpf_attr` as BPF_PROG_LOAD reads it, up to the last field that it needs.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// `union bpf_attr` as BPF_MAP_CREATE reads it, up to the last field that it needs.
#[repr(C)]
struct MapAttributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// `union bpf_attr` as the commands about a map's elements read it.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` as BPF_LINK_CREATE reads it for TCX.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    target_index: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// Loads a program. An error that the verifier has something to say about says it.
pub(super) fn load(
    kind: ProgramKind,
    name: &str,
    instructions: &[Instruction],
) -> io::Result<OwnedFd> {
    let refused = match load_with(kind, name, instructions, &mut []) {
        Ok(program) => return Ok(program),
        Err(refused) => refused,
    };
    if !matches!(
        refused.raw_os_error(),
        Some(libc::EINVAL | libc::EACCES | libc::EFAULT | libc::E2BIG)
    ) {
        return Err(refused);
    }
    let mut log = vec![0; 1 << 20];
    match load_with(kind, name, instructions, &mut log) {
        Ok(program) => Ok(program),
        Err(error) => {
            let len = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..len]);
            // The reason stands at the end, before the statistics.
            let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
            let last = lines[lines.len().saturating_sub(12)..].join("; ");
            match last.is_empty() {
                true => Err(error),
                false => Err(io::Error::new(error.kind(), format!("{error}: {last}"))),
            }
        }
    }
}

fn load_with(
    kind: ProgramKind,
    name: &str,
    instructions: &[Instruction],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: kind as u32,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"MIT".as_ptr().expose_provenance() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buffer: match log {
            [] => 0,
            log => log.as_mut_ptr().expose_provenance() as u64,
        },
        kernel_version: 0,
        flags: 0,
        name: object_name(name),
    };
    // SAFETY: the attributes are laid out as linux/bpf.h has them for this command; the kernel reads
    // so many instructions and the licence, and writes at most `log_size` bytes into the log.
    unsafe { make(BPF_PROG_LOAD, &attributes) }
}

fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    // The last byte stays zero.
    bytes[..15].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

/// Attaches a program to an interface's tc ingress by TCX.
pub(super) fn attach_tcx(program: BorrowedFd<'_>, index: u32) -> io::Result<OwnedFd> {
    const BPF_TCX_INGRESS: u32 = 46;
    let attributes = LinkAttributes {
        program: program.as_raw_fd() as u32,
        target_index: index,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
        relative: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: the attributes are laid out as linux/bpf.h has them for this command and hold no
    // pointers.
    unsafe { make(BPF_LINK_CREATE, &attributes) }
}

/// A map with elements of plain data.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key_len: usize,
    value_len: usize,
    entries: usize,
}

impl Map {
    /// Makes a map; a shared one can be [mapped](Shared::map).
    pub fn new(
        kind: MapKind,
        name: &str,
        [key_len, value_len, entries]: [usize; 3],
        shared: bool,
    ) -> io::Result<Self> {
        let attributes = MapAttributes {
            map_type: kind as u32,
            key_size: key_len as u32,
            value_size: value_len as u32,
            max_entries: entries as u32,
            flags: if shared { BPF_F_MMAPABLE } else { 0 },
            inner: 0,
            numa_node: 0,
            name: object_name(name),
        };
        // SAFETY: the attributes are laid out as linux/bpf.h has them for this command and hold no
        // pointers.
        let fd = unsafe { make(BPF_MAP_CREATE, &attributes) }?;
        Ok(Self { fd, key_len, value_len, entries })
    }

    /// Adds an element. `AlreadyExists` if there is one with this key.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.key_len && value.len() == self.value_len);
        self.element(BPF_MAP_UPDATE_ELEM, key, value, BPF_NOEXIST)
    }

    /// Removes an element.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.key_len);
        self.element(BPF_MAP_DELETE_ELEM, key, &[], 0)
    }

    fn element(
        &self,
        command: libc::c_long,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> io::Result<()> {
        let mut attributes = ElementAttributes {
            map: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: key.as_ptr().expose_provenance() as u64,
            value: match value {
                [] => 0,
                value => value.as_ptr().expose_provenance() as u64,
            },
            flags,
        };
        // SAFETY: the attributes are laid out as linux/bpf.h has them for these commands; the kernel
        // reads a key and a value of the map's lengths, which the callers have checked.
        unsafe { bpf(command, &mut attributes) }.map(|_| ())
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An array map's elements in our own memory.
#[derive(Debug)]
pub(super) struct Shared<T> {
    base: NonNull<T>,
    count: usize,
    bytes: usize,
}

// SAFETY: it is memory that stays where it is until the drop, and gives nothing but shared
// references to `T`, which is as good for all threads as for one.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Maps a shared array.
    ///
    /// # Safety
    /// `T` is fine with any bytes that programs may write there, at any time: it consists of integers,
    /// atomic ones or such that are only touched under a lock that the programs take too. All bits
    /// zero is a value.
    pub unsafe fn map(map: &Map) -> io::Result<Self> {
        assert!(map.value_len == size_of::<T>() && size_of::<T>().is_multiple_of(8));
        // The kernel gives whole pages, which every element is aligned in.
        assert!(align_of::<T>() <= 4096 && size_of::<T>().is_multiple_of(align_of::<T>()));
        let bytes = map.entries * map.value_len;
        // SAFETY: no address is asked for, so nothing else is in the way; the descriptor is a map
        // of at least so many bytes (an array's elements lie behind each other, rounded to 8).
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, count: map.entries, bytes })
    }

    /// An element, if the array has so many.
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        // SAFETY: within the mapping, which lives as long as `self`; that it is a `T` whatever the
        // kernel does there is what `map`'s caller promised.
        (index < self.count).then(|| unsafe { self.base.add(index).as_ref() })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped, and no reference to it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A bpf(2) command that makes a descriptor.
///
/// # Safety
/// `T` is laid out as the command's part of `union bpf_attr`, and its pointers are good for what
/// the command does with them, which makes a descriptor and writes nothing into the attributes.
unsafe fn make<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel only reads the attributes of these commands; the rest is the caller's
    // promise.
    let fd = unsafe { call(command, std::ptr::from_ref(attributes).cast_mut()) }?;
    // SAFETY: a descriptor that nobody else owns (bpf(2)). It is closed on exec (bpf(2)).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A bpf(2) command that makes no descriptor.
///
/// # Safety
/// `T` is laid out as the command's part of `union bpf_attr`, and its pointers are good for what
/// the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise.
    unsafe { call(command, attributes) }
}

/// # Safety
/// As of [`bpf`]; what the kernel writes to is ours to be written to.
unsafe fn call<T>(command: libc::c_long, attributes: *mut T) -> io::Result<libc::c_int> {
    loop {
        // SAFETY: the kernel reads and writes at most `size` bytes of the attributes (bpf(2)).
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
        match sys::check(result as libc::c_int) {
            // The verifier was interrupted by a signal (bpf(2), BPF_PROG_LOAD).
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
pub(super) mod test_run {
    //! BPF_PROG_TEST_RUN: a program on a packet of ours.

    use super::*;

    /// `union bpf_attr` as BPF_PROG_TEST_RUN reads and writes it.
    #[repr(C)]
    struct Attributes {
        program: u32,
        result: u32,
        input_len: u32,
        output_len: u32,
        input: u64,
        output: u64,
        repeat: u32,
        duration: u32,
        context_in_len: u32,
        context_out_len: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        /// The kernel refuses bits that it doesn't know.
        pad: u32,
    }

    /// The kernel computes a sum over the packet as some devices do, and compares it afterwards
    /// (`EBADMSG`). Linux 6.11.
    pub const CHECKSUM_COMPLETE: u32 = 1 << 2;

    /// The result, and the packet afterwards.
    pub fn run(
        program: BorrowedFd<'_>,
        packet: &[u8],
        context: &[u8],
        flags: u32,
    ) -> io::Result<(u32, Vec<u8>)> {
        let mut output = vec![0; packet.len() + 256];
        let mut attributes = Attributes {
            program: program.as_raw_fd() as u32,
            result: 0,
            input_len: packet.len() as u32,
            output_len: output.len() as u32,
            input: packet.as_ptr().expose_provenance() as u64,
            output: output.as_mut_ptr().expose_provenance() as u64,
            repeat: 1,
            duration: 0,
            context_in_len: context.len() as u32,
            context_out_len: 0,
            context_in: context.as_ptr().expose_provenance() as u64,
            context_out: 0,
            flags,
            cpu: 0,
            batch_size: 0,
            pad: 0,
        };
        // SAFETY: laid out as linux/bpf.h has it; the kernel reads the packet and the context and
        // writes at most `output_len` bytes.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }?;
        output.truncate(attributes.output_len as usize);
        Ok((attributes.result, output))
    }
}

//! Socket options and interface ioctls that no crate wraps.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An `ifreq` for an interface name; names of more than 15 bytes don't exist.
pub(super) fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` can't be an interface's name"),
        ));
    }
    // SAFETY: `ifreq` is a C struct of integers and raw pointers (netdevice(7)), for which all
    // bits zero is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// The index of an interface in the socket's namespace; `ENODEV` if there is none.
pub(super) fn interface_index(socket: BorrowedFd<'_>, name: &str) -> io::Result<libc::c_int> {
    let mut request = interface_request(name)?;
    // SAFETY: SIOCGIFINDEX reads the name and writes the index of the `ifreq` it is given
    // (netdevice(7)), which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) })?;
    // SAFETY: a successful SIOCGIFINDEX has set this member of the union (netdevice(7)).
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// The present name of an interface in the socket's namespace; `ENODEV` if it is gone.
pub(super) fn interface_name(socket: BorrowedFd<'_>, index: libc::c_int) -> io::Result<String> {
    // SAFETY: as in `interface_request`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = index;
    // SAFETY: SIOCGIFNAME reads the index and writes the name of the `ifreq` it is given
    // (netdevice(7)), which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) })?;
    Ok(request_name(&request))
}

/// The name in an `ifreq` that the kernel has filled.
pub(super) fn request_name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.map(|c| c as u8);
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned()
}

/// `setsockopt` with a plain C value.
pub(super) fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads at most the given length from the given address (setsockopt(2)),
    // and `value` is that long.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(|_| ())
}

/// Lets a socket receive only what a classic BPF program takes (socket(7)).
pub(super) fn attach_filter(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &handed_over(program))
}

/// Gives a packet socket's fanout group the program that chooses the socket for a frame (packet(7)).
pub(super) fn set_fanout_program(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &handed_over(program))
}

/// The kernel copies the program, and only reads it.
fn handed_over(program: &[libc::sock_filter]) -> libc::sock_fprog {
    let filter = program.as_ptr().cast_mut();
    libc::sock_fprog { len: program.len() as libc::c_ushort, filter }
}

/// `getsockopt` into integers: `T` is `c_int` or `tpacket_stats`, in which any bits are a value.
pub(super) fn get_option<T: Plain>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the given address (getsockopt(2)), `value`
    // is that long and, being `Plain`, valid whatever is written.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// Values that the kernel may write any bits into.
pub(super) trait Plain: Copy + Default {}

impl Plain for libc::c_int {}

/// `struct tpacket_stats`: packets and drops since the last question.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C)]
pub(super) struct PacketStatistics {
    pub packets: u32,
    pub drops: u32,
}

impl Plain for PacketStatistics {}

/// A system call's result: -1 means `errno`.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A packet socket that no frame reaches until it is bound.
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked before it is used.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: a descriptor that socket(2) has just made and nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a packet socket to an interface; protocol 0 receives nothing (packet(7)).
pub(super) fn bind_packet(
    socket: BorrowedFd<'_>,
    index: libc::c_int,
    protocol: u16,
) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: bind(2) reads `addrlen` bytes of the address, which is a `sockaddr_ll` as packet(7)
    // wants.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })
    .map(|_| ())
}

//! The address that the kernel gave a socket (getsockname(2)), asked for without the standard library's many small steps.

use std::convert::TryInto;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::raw::c_int;
use std::os::unix::io::RawFd;

// linux/socket.h
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ROOM: usize = 28; // struct sockaddr_in6

#[repr(C, align(4))]
struct Name([u8; ROOM]);

extern "C" {
    fn getsockname(fd: c_int, name: *mut Name, length: *mut u32) -> c_int;
}

/// The address of the socket behind the descriptor; None when there is none, or it is no IP address.
#[inline(always)]
pub fn socket_name(fd: RawFd) -> Option<SocketAddr> {
    let (mut name, mut length) = (Name([0; ROOM]), ROOM as u32);
    if unsafe { getsockname(fd, &mut name, &mut length) } != 0 {
        return None;
    }
    read(&name)
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
#[inline(always)]
fn read(Name(name): &Name) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes([name[0], name[1]]);
    let ip = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from(u32::from_be_bytes(name[4..8].try_into().ok()?))),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(name[8..24].try_into().ok()?))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([name[2], name[3]])))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::io::AsRawFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_name_is_what_the_standard_library_says() {
        for address in ["127.0.0.1:0", "127.3.2.1:0", "[::1]:0"] {
            let socket = TcpListener::bind(address).unwrap();
            assert_eq!(socket_name(socket.as_raw_fd()), socket.local_addr().ok());
        }
    }

    #[test]
    fn what_has_no_ip_address_has_none() {
        let path = std::env::temp_dir().join(format!("lockgate-{}.sock", std::process::id()));
        let socket = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(socket_name(socket.as_raw_fd()), None);
        assert_eq!(socket_name(-1), None);
    }
}

//! What Envoy calls for listener filters: once for each configuration and once or more for each accepted socket.

use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpStream};
use std::os::raw::c_void;
use std::os::unix::io::{FromRawFd, RawFd};
use std::ptr::null;

use crate::abi::*;
use crate::guard::guarded;
use crate::identity::Identity;
use crate::log::log;
use crate::socket_name::socket_name;

/// A socket that was accepted and is no connection yet.
pub struct Socket {
    envoy: ListenerFilterEnvoy,
}

impl Socket {
    /// The client's address as Envoy prints it; None when it is no IP address.
    pub fn remote_address(&self) -> Option<&[u8]> {
        let mut text = EnvoyBuffer::EMPTY;
        let mut port = 0;
        unsafe {
            if !envoy_dynamic_module_callback_listener_filter_get_remote_address(self.envoy, &mut text, &mut port) {
                return None;
            }
            Some(text.bytes()) // the socket's own, which it keeps
        }
    }

    /// The client's address and port as the kernel has them. None when it has none.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        let socket = unsafe { TcpStream::from_raw_fd(self.descriptor()?) };
        ManuallyDrop::new(socket).peer_addr().ok() // it is Envoy's to close
    }

    /// Where the client wanted to go: the address that the kernel gave the socket. None when it has none.
    ///
    /// Envoy's filter `original_dst` asks conntrack first, which knows where the client wanted to go before the address
    /// was translated: of a published port that is the node, and not the container that the kernel has judged.
    pub fn own_address(&self) -> Option<SocketAddr> {
        socket_name(self.descriptor()?)
    }

    fn descriptor(&self) -> Option<RawFd> {
        let fd = unsafe { envoy_dynamic_module_callback_listener_filter_get_socket_fd(self.envoy) };
        RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)
    }

    /// Have the connection be one to this address, whose IP address as text is `ip`, as `original_dst` does. False when
    /// Envoy did not take it.
    pub fn be_at(&self, ip: &[u8], address: SocketAddr) -> bool {
        unsafe {
            envoy_dynamic_module_callback_listener_filter_restore_local_address(
                self.envoy,
                ModuleBuffer::of(ip),
                u32::from(address.port()),
                address.is_ipv6(),
            )
        }
    }

    /// Leave a value for the filters and the access log of the connection. False when Envoy did not take it.
    pub fn set_filter_state(&self, key: &str, value: &[u8]) -> bool {
        unsafe {
            envoy_dynamic_module_callback_listener_filter_set_filter_state(
                self.envoy,
                ModuleBuffer::of(key.as_bytes()),
                ModuleBuffer::of(value),
            )
        }
    }

    fn close(&self, details: &str) {
        unsafe {
            envoy_dynamic_module_callback_listener_filter_close_socket(self.envoy, ModuleBuffer::of(details.as_bytes()))
        }
    }
}

/// # Safety
/// Called by Envoy, with its own pointers.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_config_new(
    _config_envoy: ListenerConfigEnvoy,
    name: EnvoyBuffer,
    config: EnvoyBuffer,
) -> ListenerConfigModule {
    guarded(null(), || {
        let name = String::from_utf8_lossy(name.bytes()).into_owned();
        match crate::listener_config(&name, config.bytes()) {
            Ok(made) => Box::into_raw(Box::new(made)) as *const c_void,
            Err(reason) => {
                log(LOG_ERROR, &format!("lockgate: listener filter {name}: {reason}"));
                null()
            }
        }
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_config_destroy(config: ListenerConfigModule) {
    guarded((), || drop(Box::from_raw(config as *mut Identity)))
}

/// The filter of one socket has no state of its own: it *is* the configuration.
///
/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_new(
    config: ListenerConfigModule,
    _filter_envoy: ListenerFilterEnvoy,
) -> ListenerFilterModule {
    config
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_on_accept(
    filter_envoy: ListenerFilterEnvoy,
    filter: ListenerFilterModule,
) -> FilterStatus {
    let socket = Socket { envoy: filter_envoy };
    let config = &*(filter as *const Identity);
    match guarded(None, || Some(config.accept(&socket))) {
        Some(Ok(())) => CONTINUE,
        refused => {
            guarded((), || refuse(&socket, refused));
            STOP_ITERATION
        }
    }
}

#[cold]
fn refuse(socket: &Socket, refused: Option<Result<(), String>>) {
    let reason = refused
        .and_then(Result::err)
        .unwrap_or_else(|| "it panicked".to_string());
    log(LOG_WARN, &format!("lockgate: connection closed: {reason}"));
    socket.close(&format!("lockgate: {reason}"));
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_on_data(
    _filter_envoy: ListenerFilterEnvoy,
    _filter: ListenerFilterModule,
    _data_length: usize,
) -> FilterStatus {
    CONTINUE
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_on_close(
    _filter_envoy: ListenerFilterEnvoy,
    _filter: ListenerFilterModule,
) {
}

/// No filter here reads data.
///
/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_get_max_read_bytes(
    _filter_envoy: ListenerFilterEnvoy,
    _filter: ListenerFilterModule,
) -> usize {
    0
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_destroy(_filter: ListenerFilterModule) {}

// Envoy insists on these three; nothing here is scheduled or calls out.

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_scheduled(
    _filter_envoy: ListenerFilterEnvoy,
    _filter: ListenerFilterModule,
    _event_id: u64,
) {
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_config_scheduled(
    _config_envoy: ListenerConfigEnvoy,
    _config: ListenerConfigModule,
    _event_id: u64,
) {
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_listener_filter_http_callout_done(
    _filter_envoy: ListenerFilterEnvoy,
    _filter: ListenerFilterModule,
    _callout_id: u64,
    _result: u32,
    _headers: *const c_void,
    _headers_size: usize,
    _body_chunks: *const EnvoyBuffer,
    _body_chunks_size: usize,
) {
}

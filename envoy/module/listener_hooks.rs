//! What Envoy calls for listener filters: once for each configuration and once or more for each accepted socket.

use std::os::raw::c_void;
use std::ptr::null;

use crate::abi::*;
use crate::guard::guarded;
use crate::log::log;

/// What a listener filter's configuration gives. It is shared by all worker threads.
pub trait ListenerConfig: Send + Sync {
    /// Judge a socket that was just accepted. An error closes it; the text goes to the log and to its access log.
    fn accept(&self, socket: &Socket) -> Result<(), String>;
}

/// A socket that was accepted and is no connection yet.
pub struct Socket {
    envoy: ListenerFilterEnvoy,
}

type AddressGetter = unsafe extern "C" fn(ListenerFilterEnvoy, *mut EnvoyBuffer, *mut u32) -> bool;

impl Socket {
    /// The client's address as Envoy prints it; None when it is no IP address.
    pub fn remote_address(&self) -> Option<&[u8]> {
        self.address(envoy_dynamic_module_callback_listener_filter_get_remote_address)
    }

    /// Where the client wanted to go, likewise: an `original_dst` filter must come first.
    pub fn local_address(&self) -> Option<&[u8]> {
        self.address(envoy_dynamic_module_callback_listener_filter_get_local_address)
    }

    fn address(&self, get: AddressGetter) -> Option<&[u8]> {
        let mut text = EnvoyBuffer::EMPTY;
        let mut port = 0;
        unsafe {
            if !get(self.envoy, &mut text, &mut port) {
                return None;
            }
            Some(text.bytes()) // the socket's own, which it keeps
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
    guarded((), || drop(Box::from_raw(config as *mut Box<dyn ListenerConfig>)))
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
    let config = &*(filter as *const Box<dyn ListenerConfig>);
    match guarded(None, || Some(config.accept(&socket))) {
        Some(Ok(())) => CONTINUE,
        refused => {
            guarded((), || {
                let reason = refused
                    .and_then(Result::err)
                    .unwrap_or_else(|| "it panicked".to_string());
                log(LOG_WARN, &format!("lockgate: connection closed: {reason}"));
                socket.close(&format!("lockgate: {reason}"));
            });
            STOP_ITERATION
        }
    }
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

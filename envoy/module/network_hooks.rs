//! What Envoy calls for network filters: once for each configuration and at every step of each connection.
//!
//! A filter that panicked is broken for good: its connection is closed and no byte passes it any more.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::raw::c_void;
use std::ptr::null;

use crate::abi::*;
use crate::guard::guarded;
use crate::log::log;

/// What a network filter's configuration gives. It is shared by all worker threads.
pub trait NetworkConfig: Send + Sync {
    /// Name the counters that the filters will use, before the first of them is made.
    fn define_counters(&mut self, _counters: &Counters) {}

    /// The filter of a new connection.
    fn new_filter(&self) -> Box<dyn NetworkFilter>;
}

/// The filter of one connection; all calls come from the worker thread that owns it.
pub trait NetworkFilter {
    /// The connection stands. Stop holds the filters behind this one until `continue_reading`.
    fn new_connection(&mut self, connection: &Connection) -> Step;

    /// The client's bytes: `length` of them are in the read buffer, `end` says that no more will come.
    fn read(&mut self, connection: &Connection, length: usize, end: bool) -> Step;

    /// The server's bytes, likewise in the write buffer.
    fn write(&mut self, connection: &Connection, length: usize, end: bool) -> Step;

    /// The connection ends (EVENT_REMOTE_CLOSE, EVENT_LOCAL_CLOSE). Not called for a close of the filter's own.
    fn event(&mut self, connection: &Connection, event: ConnectionEvent);

    /// Towards the client so much is buffered that reading should pause (true), or no longer (false).
    fn pressure(&mut self, _connection: &Connection, _high: bool) {}
}

/// Whether the filters behind this one see what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Continue,
    Stop,
}

impl Step {
    fn status(self) -> FilterStatus {
        match self {
            Step::Continue => CONTINUE,
            Step::Stop => STOP_ITERATION,
        }
    }
}

/// Defines counters (they appear as `dynamicmodulescustom.NAME`).
pub struct Counters {
    envoy: NetworkConfigEnvoy,
}

impl Counters {
    /// The number of the counter `name`, for `Connection::count`.
    pub fn define(&self, name: &str) -> Option<usize> {
        let mut id = 0;
        let result = unsafe {
            envoy_dynamic_module_callback_network_filter_config_define_counter(
                self.envoy,
                ModuleBuffer::of(name.as_bytes()),
                &mut id,
            )
        };
        if result == METRIC_OK {
            Some(id)
        } else {
            None
        }
    }
}

/// Envoy's side of one connection. Buffers that it lends are valid until it is asked to change them.
pub struct Connection {
    envoy: NetworkFilterEnvoy,
}

/// A buffer's memory as Envoy lends it, piece by piece.
pub struct Chunks<'c> {
    few: [EnvoyBuffer; FEW], // most buffers have no more, and cost no allocation
    many: Vec<EnvoyBuffer>,
    count: usize,
    lender: PhantomData<&'c Connection>,
}

const FEW: usize = 8;

impl Chunks<'_> {
    /// The first piece; empty when there is none.
    pub fn first(&self) -> &[u8] {
        self.iter().next().unwrap_or(&[])
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let all = if self.count <= FEW {
            &self.few[..self.count]
        } else {
            self.many.as_slice()
        };
        // Envoy filled them, and its memory stays while the connection is borrowed.
        all.iter().map(|chunk| unsafe { chunk.bytes() })
    }
}

type AddressGetter = unsafe extern "C" fn(NetworkFilterEnvoy, *mut EnvoyBuffer, *mut u32) -> bool;
type ChunkCounter = unsafe extern "C" fn(NetworkFilterEnvoy) -> usize;
type ChunkGetter = unsafe extern "C" fn(NetworkFilterEnvoy, *mut EnvoyBuffer) -> bool;

impl Connection {
    /// What the read buffer holds.
    pub fn read_chunks(&self) -> Chunks<'_> {
        self.chunks(
            envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size,
            envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks,
        )
    }

    /// What the write buffer holds.
    pub fn write_chunks(&self) -> Chunks<'_> {
        self.chunks(
            envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size,
            envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks,
        )
    }

    fn chunks(&self, count: ChunkCounter, get: ChunkGetter) -> Chunks<'_> {
        let mut chunks = Chunks {
            few: [EnvoyBuffer::EMPTY; FEW],
            many: Vec::new(),
            count: unsafe { count(self.envoy) },
            lender: PhantomData,
        };
        let place = if chunks.count <= FEW {
            chunks.few.as_mut_ptr()
        } else {
            chunks.many.resize(chunks.count, EnvoyBuffer::EMPTY);
            chunks.many.as_mut_ptr()
        };
        if chunks.count > 0 && !unsafe { get(self.envoy, place) } {
            chunks.count = 0;
        }
        chunks
    }

    /// Take `length` bytes off the front of the read buffer.
    pub fn drain_read(&self, length: usize) -> bool {
        unsafe { envoy_dynamic_module_callback_network_filter_drain_read_buffer(self.envoy, length) }
    }

    /// Put `data` behind what is in the read buffer.
    pub fn append_read(&self, data: &[u8]) -> bool {
        unsafe { envoy_dynamic_module_callback_network_filter_append_read_buffer(self.envoy, ModuleBuffer::of(data)) }
    }

    /// Put `data` before what is in the read buffer. Where as much was taken off it, that takes no memory.
    pub fn prepend_read(&self, data: &[u8]) -> bool {
        unsafe { envoy_dynamic_module_callback_network_filter_prepend_read_buffer(self.envoy, ModuleBuffer::of(data)) }
    }

    /// Take `length` bytes off the front of the write buffer.
    pub fn drain_write(&self, length: usize) -> bool {
        unsafe { envoy_dynamic_module_callback_network_filter_drain_write_buffer(self.envoy, length) }
    }

    /// Put `data` behind what is in the write buffer.
    pub fn append_write(&self, data: &[u8]) -> bool {
        unsafe { envoy_dynamic_module_callback_network_filter_append_write_buffer(self.envoy, ModuleBuffer::of(data)) }
    }

    /// Send `data` on towards the server, past this filter.
    pub fn inject_read(&self, data: &[u8], end: bool) {
        unsafe {
            envoy_dynamic_module_callback_network_filter_inject_read_data(self.envoy, ModuleBuffer::of(data), end)
        }
    }

    /// Answer the client, past this filter.
    pub fn inject_write(&self, data: &[u8], end: bool) {
        unsafe {
            envoy_dynamic_module_callback_network_filter_inject_write_data(self.envoy, ModuleBuffer::of(data), end)
        }
    }

    /// Let the filters behind this one go on after `Step::Stop`.
    pub fn continue_reading(&self) {
        unsafe { envoy_dynamic_module_callback_network_filter_continue_reading(self.envoy) }
    }

    /// Close the connection; `details` goes to the access log.
    pub fn close(&self, how: CloseType, details: &str) {
        unsafe {
            envoy_dynamic_module_callback_network_filter_close_with_details(
                self.envoy,
                how,
                ModuleBuffer::of(details.as_bytes()),
            )
        }
    }

    /// Stop or go on reading from the client. Calls are counted: as many must let go as have held.
    pub fn read_disable(&self, disable: bool) {
        unsafe {
            envoy_dynamic_module_callback_network_filter_read_disable(self.envoy, disable);
        }
    }

    /// Envoy's number of the connection.
    pub fn id(&self) -> u64 {
        unsafe { envoy_dynamic_module_callback_network_filter_get_connection_id(self.envoy) }
    }

    /// The client's address and port.
    pub fn remote_address(&self) -> Option<(IpAddr, u16)> {
        self.address(envoy_dynamic_module_callback_network_filter_get_remote_address)
    }

    /// Where the client wanted to go.
    pub fn local_address(&self) -> Option<(IpAddr, u16)> {
        self.address(envoy_dynamic_module_callback_network_filter_get_local_address)
    }

    fn address(&self, get: AddressGetter) -> Option<(IpAddr, u16)> {
        let mut text = EnvoyBuffer::EMPTY;
        let mut port = 0;
        unsafe {
            if !get(self.envoy, &mut text, &mut port) {
                return None;
            }
            let address = std::str::from_utf8(text.bytes()).ok()?.parse().ok()?;
            Some((address, port as u16))
        }
    }

    /// What a listener filter left under `key`.
    pub fn filter_state(&self, key: &str) -> Option<String> {
        let mut value = EnvoyBuffer::EMPTY;
        unsafe {
            if !envoy_dynamic_module_callback_network_get_filter_state_bytes(
                self.envoy,
                ModuleBuffer::of(key.as_bytes()),
                &mut value,
            ) {
                return None;
            }
            String::from_utf8(value.bytes().to_vec()).ok()
        }
    }

    /// Leave a text for the access log.
    pub fn set_metadata(&self, namespace: &str, key: &str, value: &str) {
        unsafe {
            envoy_dynamic_module_callback_network_set_dynamic_metadata_string(
                self.envoy,
                ModuleBuffer::of(namespace.as_bytes()),
                ModuleBuffer::of(key.as_bytes()),
                ModuleBuffer::of(value.as_bytes()),
            )
        }
    }

    /// Raise a counter by one.
    pub fn count(&self, counter: Option<usize>) {
        if let Some(id) = counter {
            unsafe {
                envoy_dynamic_module_callback_network_filter_increment_counter(self.envoy, id, 1);
            }
        }
    }
}

/// What stands behind Envoy's pointer to one filter. Empty once it panicked. What the filter asks of Envoy may come back
/// to it before the answer does (a close raises an event), so it is borrowed and not just taken.
struct Held {
    filter: RefCell<Option<Box<dyn NetworkFilter>>>,
}

impl Held {
    /// Pass a step to the filter; a filter that is broken, breaks now or is met at work closes the connection.
    fn step(&self, connection: &Connection, call: impl FnOnce(&mut dyn NetworkFilter) -> Step) -> FilterStatus {
        let done = guarded(None, || match self.filter.try_borrow_mut() {
            Ok(mut slot) => {
                // Taken out while it works: a panic leaves the slot empty.
                let mut filter = slot.take()?;
                let step = call(&mut *filter);
                *slot = Some(filter);
                Some(step)
            }
            Err(_) => None,
        });
        match done {
            Some(step) => step.status(),
            None => {
                guarded((), || {
                    connection.close(CLOSE_ABORT_RESET, "lockgate: a filter is broken")
                });
                STOP_ITERATION
            }
        }
    }

    /// Tell the filter something that it cannot refuse. What it caused itself while it works, it need not be told.
    fn tell(&self, call: impl FnOnce(&mut dyn NetworkFilter)) {
        guarded((), || {
            if let Ok(mut slot) = self.filter.try_borrow_mut() {
                if let Some(mut filter) = slot.take() {
                    call(&mut *filter);
                    *slot = Some(filter);
                }
            }
        })
    }
}

/// # Safety
/// Called by Envoy, with its own pointers.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    config_envoy: NetworkConfigEnvoy,
    name: EnvoyBuffer,
    config: EnvoyBuffer,
) -> NetworkConfigModule {
    guarded(null(), || {
        let name = String::from_utf8_lossy(name.bytes()).into_owned();
        match crate::network_config(&name, config.bytes()) {
            Ok(mut made) => {
                made.define_counters(&Counters { envoy: config_envoy });
                Box::into_raw(Box::new(made)) as *const c_void
            }
            Err(reason) => {
                log(LOG_ERROR, &format!("lockgate: network filter {name}: {reason}"));
                null()
            }
        }
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_destroy(config: NetworkConfigModule) {
    guarded((), || drop(Box::from_raw(config as *mut Box<dyn NetworkConfig>)))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new(
    config: NetworkConfigModule,
    _filter_envoy: NetworkFilterEnvoy,
) -> NetworkFilterModule {
    guarded(null(), || {
        let config = &*(config as *const Box<dyn NetworkConfig>);
        let filter = RefCell::new(Some(config.new_filter()));
        Box::into_raw(Box::new(Held { filter })) as *const c_void
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new_connection(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
) -> FilterStatus {
    let connection = Connection { envoy };
    let held = &*(filter as *const Held);
    held.step(&connection, |filter| filter.new_connection(&connection))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_read(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
    length: usize,
    end: bool,
) -> FilterStatus {
    let connection = Connection { envoy };
    let held = &*(filter as *const Held);
    held.step(&connection, |filter| filter.read(&connection, length, end))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_write(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
    length: usize,
    end: bool,
) -> FilterStatus {
    let connection = Connection { envoy };
    let held = &*(filter as *const Held);
    held.step(&connection, |filter| filter.write(&connection, length, end))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_event(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
    event: ConnectionEvent,
) {
    let connection = Connection { envoy };
    let held = &*(filter as *const Held);
    held.tell(|filter| filter.event(&connection, event))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_above_write_buffer_high_watermark(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
) {
    let connection = Connection { envoy };
    let held = &*(filter as *const Held);
    held.tell(|filter| filter.pressure(&connection, true))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_below_write_buffer_low_watermark(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
) {
    let connection = Connection { envoy };
    let held = &*(filter as *const Held);
    held.tell(|filter| filter.pressure(&connection, false))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(filter: NetworkFilterModule) {
    guarded((), || drop(Box::from_raw(filter as *mut Held)))
}

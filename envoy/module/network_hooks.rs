//! What Envoy calls for network filters: once for each configuration and at every step of each connection.
//!
//! A filter that panicked is broken for good: its connection is closed and no byte passes it any more.

use std::cell::RefCell;
use std::os::raw::c_void;
use std::ptr::null;

use crate::abi::*;
use crate::connection::Connection;
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

    /// What `Connection::call_later` asked for. Not called when the connection ends before.
    fn later(&mut self, _connection: &Connection) {}

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
    let connection = Connection::of(envoy);
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
    let connection = Connection::of(envoy);
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
    let connection = Connection::of(envoy);
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
    let connection = Connection::of(envoy);
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
    let connection = Connection::of(envoy);
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
    let connection = Connection::of(envoy);
    let held = &*(filter as *const Held);
    held.tell(|filter| filter.pressure(&connection, false))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_scheduled(
    envoy: NetworkFilterEnvoy,
    filter: NetworkFilterModule,
    _event_id: u64,
) {
    let connection = Connection::of(envoy);
    let held = &*(filter as *const Held);
    held.tell(|filter| filter.later(&connection))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(filter: NetworkFilterModule) {
    guarded((), || drop(Box::from_raw(filter as *mut Held)))
}

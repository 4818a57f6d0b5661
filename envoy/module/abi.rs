//! Envoy 1.40's dynamic modules ABI (source/extensions/dynamic_modules/abi/abi.h, "v0.2.0"): what this module uses of it.
//!
//! Envoy only warns about another version, and a wrong signature is undefined behaviour, so every declaration here was
//! compared with that header. C's enums are `u32`, `bool` is one byte, a buffer travels as (pointer, length) by value.

// It is the interface as such, whether a filter uses all of it or not.
#![allow(dead_code)]

use std::os::raw::{c_char, c_void};

/// What `envoy_dynamic_module_on_program_init` answers; with its final NUL.
pub const ABI_VERSION: &[u8] = b"v0.2.0\0";

/// A block of memory that Envoy owns, valid until the hook returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EnvoyBuffer {
    pub ptr: *const c_char,
    pub length: usize,
}

impl EnvoyBuffer {
    pub const EMPTY: EnvoyBuffer = EnvoyBuffer {
        ptr: std::ptr::null(),
        length: 0,
    };

    /// The bytes.
    ///
    /// # Safety
    /// Envoy must have filled the buffer, and its memory must outlive `'a`.
    pub unsafe fn bytes<'a>(&self) -> &'a [u8] {
        if self.ptr.is_null() || self.length == 0 {
            return &[];
        }
        std::slice::from_raw_parts(self.ptr as *const u8, self.length)
    }
}

/// A block of memory that the module owns; Envoy copies it before the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ModuleBuffer {
    pub ptr: *const c_char,
    pub length: usize,
}

impl ModuleBuffer {
    pub fn of(bytes: &[u8]) -> ModuleBuffer {
        ModuleBuffer {
            ptr: bytes.as_ptr() as *const c_char,
            length: bytes.len(),
        }
    }
}

/// Pointers to Envoy's objects and to ours, opaque to the other side.
pub type ListenerConfigEnvoy = *mut c_void;
pub type ListenerConfigModule = *const c_void;
pub type ListenerFilterEnvoy = *mut c_void;
pub type ListenerFilterModule = *const c_void;
pub type NetworkConfigEnvoy = *mut c_void;
pub type NetworkConfigModule = *const c_void;
pub type NetworkFilterEnvoy = *mut c_void;
pub type NetworkFilterModule = *const c_void;
pub type NetworkSchedulerModule = *mut c_void;

/// on_listener_filter_status and on_network_filter_data_status.
pub type FilterStatus = u32;
pub const CONTINUE: FilterStatus = 0;
pub const STOP_ITERATION: FilterStatus = 1;

/// log_level
pub type LogLevel = u32;
pub const LOG_DEBUG: LogLevel = 1;
pub const LOG_INFO: LogLevel = 2;
pub const LOG_WARN: LogLevel = 3;
pub const LOG_ERROR: LogLevel = 4;
pub const LOG_CRITICAL: LogLevel = 5;

/// network_connection_close_type
pub type CloseType = u32;
pub const CLOSE_FLUSH_WRITE: CloseType = 0;
pub const CLOSE_NO_FLUSH: CloseType = 1;
pub const CLOSE_FLUSH_WRITE_AND_DELAY: CloseType = 2;
pub const CLOSE_ABORT: CloseType = 3;
pub const CLOSE_ABORT_RESET: CloseType = 4;

/// network_connection_event
pub type ConnectionEvent = u32;
pub const EVENT_REMOTE_CLOSE: ConnectionEvent = 0;
pub const EVENT_LOCAL_CLOSE: ConnectionEvent = 1;
pub const EVENT_CONNECTED: ConnectionEvent = 2;
pub const EVENT_CONNECTED_ZERO_RTT: ConnectionEvent = 3;

/// network_connection_state
pub type ConnectionState = u32;
pub const STATE_OPEN: ConnectionState = 0;
pub const STATE_CLOSING: ConnectionState = 1;
pub const STATE_CLOSED: ConnectionState = 2;

/// network_read_disable_status
pub type ReadDisableStatus = u32;

/// metrics_result
pub type MetricsResult = u32;
pub const METRIC_OK: MetricsResult = 0;

extern "C" {
    // Common
    pub fn envoy_dynamic_module_callback_log(level: LogLevel, message: ModuleBuffer);
    pub fn envoy_dynamic_module_callback_log_enabled(level: LogLevel) -> bool;
    pub fn envoy_dynamic_module_callback_is_validation_mode() -> bool;

    // Listener filters
    pub fn envoy_dynamic_module_callback_listener_filter_get_remote_address(
        filter: ListenerFilterEnvoy,
        address_out: *mut EnvoyBuffer,
        port_out: *mut u32,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_listener_filter_get_socket_fd(filter: ListenerFilterEnvoy) -> i64;
    pub fn envoy_dynamic_module_callback_listener_filter_restore_local_address(
        filter: ListenerFilterEnvoy,
        address: ModuleBuffer,
        port: u32,
        is_ipv6: bool,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_listener_filter_set_filter_state(
        filter: ListenerFilterEnvoy,
        key: ModuleBuffer,
        value: ModuleBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_listener_filter_close_socket(
        filter: ListenerFilterEnvoy,
        details: ModuleBuffer,
    );
    pub fn envoy_dynamic_module_callback_listener_filter_config_define_counter(
        config: ListenerConfigEnvoy,
        name: ModuleBuffer,
        counter_id: *mut usize,
    ) -> MetricsResult;
    pub fn envoy_dynamic_module_callback_listener_filter_increment_counter(
        filter: ListenerFilterEnvoy,
        id: usize,
        value: u64,
    ) -> MetricsResult;

    // Network filters: buffers
    pub fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size(
        filter: NetworkFilterEnvoy,
    ) -> usize;
    pub fn envoy_dynamic_module_callback_network_filter_get_read_buffer_size(filter: NetworkFilterEnvoy) -> usize;
    pub fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks(
        filter: NetworkFilterEnvoy,
        result_buffer_vector: *mut EnvoyBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size(
        filter: NetworkFilterEnvoy,
    ) -> usize;
    pub fn envoy_dynamic_module_callback_network_filter_get_write_buffer_size(filter: NetworkFilterEnvoy) -> usize;
    pub fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks(
        filter: NetworkFilterEnvoy,
        result_buffer_vector: *mut EnvoyBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_drain_read_buffer(
        filter: NetworkFilterEnvoy,
        length: usize,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_drain_write_buffer(
        filter: NetworkFilterEnvoy,
        length: usize,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_prepend_read_buffer(
        filter: NetworkFilterEnvoy,
        data: ModuleBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_append_read_buffer(
        filter: NetworkFilterEnvoy,
        data: ModuleBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_prepend_write_buffer(
        filter: NetworkFilterEnvoy,
        data: ModuleBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_append_write_buffer(
        filter: NetworkFilterEnvoy,
        data: ModuleBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_inject_read_data(
        filter: NetworkFilterEnvoy,
        data: ModuleBuffer,
        end_stream: bool,
    );
    pub fn envoy_dynamic_module_callback_network_filter_inject_write_data(
        filter: NetworkFilterEnvoy,
        data: ModuleBuffer,
        end_stream: bool,
    );

    // Network filters: the connection
    pub fn envoy_dynamic_module_callback_network_filter_continue_reading(filter: NetworkFilterEnvoy);
    pub fn envoy_dynamic_module_callback_network_filter_close(filter: NetworkFilterEnvoy, close_type: CloseType);
    pub fn envoy_dynamic_module_callback_network_filter_close_with_details(
        filter: NetworkFilterEnvoy,
        close_type: CloseType,
        details: ModuleBuffer,
    );
    pub fn envoy_dynamic_module_callback_network_filter_get_connection_id(filter: NetworkFilterEnvoy) -> u64;
    pub fn envoy_dynamic_module_callback_network_filter_get_connection_state(
        filter: NetworkFilterEnvoy,
    ) -> ConnectionState;
    pub fn envoy_dynamic_module_callback_network_filter_get_requested_server_name(
        filter: NetworkFilterEnvoy,
        name_out: *mut EnvoyBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_remote_address(
        filter: NetworkFilterEnvoy,
        address_out: *mut EnvoyBuffer,
        port_out: *mut u32,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_get_local_address(
        filter: NetworkFilterEnvoy,
        address_out: *mut EnvoyBuffer,
        port_out: *mut u32,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_read_disable(
        filter: NetworkFilterEnvoy,
        disable: bool,
    ) -> ReadDisableStatus;
    pub fn envoy_dynamic_module_callback_network_filter_read_enabled(filter: NetworkFilterEnvoy) -> bool;
    pub fn envoy_dynamic_module_callback_network_filter_enable_half_close(filter: NetworkFilterEnvoy, enabled: bool);
    pub fn envoy_dynamic_module_callback_network_filter_get_buffer_limit(filter: NetworkFilterEnvoy) -> u32;
    pub fn envoy_dynamic_module_callback_network_filter_set_buffer_limits(filter: NetworkFilterEnvoy, limit: u32);
    pub fn envoy_dynamic_module_callback_network_filter_above_high_watermark(filter: NetworkFilterEnvoy) -> bool;
    pub fn envoy_dynamic_module_callback_network_get_filter_state_bytes(
        filter: NetworkFilterEnvoy,
        key: ModuleBuffer,
        value_out: *mut EnvoyBuffer,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_network_set_dynamic_metadata_string(
        filter: NetworkFilterEnvoy,
        filter_namespace: ModuleBuffer,
        key: ModuleBuffer,
        value: ModuleBuffer,
    );

    // Network filters: the scheduler
    pub fn envoy_dynamic_module_callback_network_filter_scheduler_new(
        filter: NetworkFilterEnvoy,
    ) -> NetworkSchedulerModule;
    pub fn envoy_dynamic_module_callback_network_filter_scheduler_commit(
        scheduler: NetworkSchedulerModule,
        event_id: u64,
    );
    pub fn envoy_dynamic_module_callback_network_filter_scheduler_delete(scheduler: NetworkSchedulerModule);

    // Network filters: metrics
    pub fn envoy_dynamic_module_callback_network_filter_config_define_counter(
        config: NetworkConfigEnvoy,
        name: ModuleBuffer,
        counter_id: *mut usize,
    ) -> MetricsResult;
    pub fn envoy_dynamic_module_callback_network_filter_increment_counter(
        filter: NetworkFilterEnvoy,
        id: usize,
        value: u64,
    ) -> MetricsResult;
}

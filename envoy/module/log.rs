//! Lines in Envoy's own log, under `dynamic_modules`.

use crate::abi;

/// Log `text`; costs nothing when `level` is switched off.
pub fn log(level: abi::LogLevel, text: &str) {
    unsafe {
        if abi::envoy_dynamic_module_callback_log_enabled(level) {
            abi::envoy_dynamic_module_callback_log(level, abi::ModuleBuffer::of(text.as_bytes()));
        }
    }
}

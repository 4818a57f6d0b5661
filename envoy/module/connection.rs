//! What a network filter may ask of Envoy about its connection, and have it do.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::IpAddr;

use crate::abi::*;

/// Envoy's side of one connection. Buffers that it lends are valid until it is asked to change them.
pub struct Connection {
    envoy: NetworkFilterEnvoy,
}

/// A buffer's memory as Envoy lends it, piece by piece.
pub struct Chunks<'c> {
    all: Vec<EnvoyBuffer>,
    lender: PhantomData<&'c Connection>,
}

impl Chunks<'_> {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        // Envoy filled them, and its memory stays while the connection is borrowed.
        self.all.iter().map(|chunk| unsafe { chunk.bytes() })
    }
}

const ROOM: usize = 256; // pieces for which no memory is taken

type AddressGetter = unsafe extern "C" fn(NetworkFilterEnvoy, *mut EnvoyBuffer, *mut u32) -> bool;
type ChunkCounter = unsafe extern "C" fn(NetworkFilterEnvoy) -> usize;
type ChunkGetter = unsafe extern "C" fn(NetworkFilterEnvoy, *mut EnvoyBuffer) -> bool;

impl Connection {
    pub fn of(envoy: NetworkFilterEnvoy) -> Connection {
        Connection { envoy }
    }

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

    /// The first piece of the read buffer, which holds `length` bytes.
    pub fn read_begin(&self, length: usize) -> &[u8] {
        self.begin(
            length,
            envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size,
            envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks,
        )
    }

    /// The first piece of the write buffer, which holds `length` bytes.
    pub fn write_begin(&self, length: usize) -> &[u8] {
        self.begin(
            length,
            envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size,
            envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks,
        )
    }

    /// Envoy writes down every piece, and none is empty (`OwnedImpl::getRawSlices`): there are no more than bytes, so those
    /// of a short buffer need not be counted, for which it would make its list a second time.
    fn begin(&self, length: usize, count: ChunkCounter, get: ChunkGetter) -> &[u8] {
        let most = if length <= ROOM {
            length
        } else {
            unsafe { count(self.envoy) }
        };
        if most == 0 {
            return &[];
        }
        let mut room = [MaybeUninit::<EnvoyBuffer>::uninit(); ROOM];
        if most > ROOM {
            return self
                .chunks(count, get)
                .all
                .first()
                .map_or(&[], |chunk| unsafe { chunk.bytes() });
        }
        room[0] = MaybeUninit::new(EnvoyBuffer::EMPTY);
        unsafe {
            get(self.envoy, room.as_mut_ptr() as *mut EnvoyBuffer);
            room[0].assume_init().bytes()
        }
    }

    fn chunks(&self, count: ChunkCounter, get: ChunkGetter) -> Chunks<'_> {
        let mut all = vec![EnvoyBuffer::EMPTY; unsafe { count(self.envoy) }];
        if !all.is_empty() && !unsafe { get(self.envoy, all.as_mut_ptr()) } {
            all.clear();
        }
        Chunks {
            all,
            lender: PhantomData,
        }
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

    /// Have the filter's `later` called when Envoy is through with what it is at. False: it cannot be.
    pub fn call_later(&self) -> bool {
        unsafe {
            let scheduler = envoy_dynamic_module_callback_network_filter_scheduler_new(self.envoy);
            if scheduler.is_null() {
                return false;
            }
            envoy_dynamic_module_callback_network_filter_scheduler_commit(scheduler, 0);
            envoy_dynamic_module_callback_network_filter_scheduler_delete(scheduler);
            true
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

    /// The server name of the client's TLS greeting, in lower case; None where Envoy has read none.
    pub fn server_name(&self) -> Option<&[u8]> {
        let mut name = EnvoyBuffer::EMPTY;
        unsafe {
            envoy_dynamic_module_callback_network_filter_get_requested_server_name(self.envoy, &mut name)
                .then(|| name.bytes())
        }
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

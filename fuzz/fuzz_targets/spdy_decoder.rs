#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vk_core::api::stream::fuzzing::spdy_decoder(data));

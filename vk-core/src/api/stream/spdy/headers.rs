//! Header blocks: one zlib stream per direction and connection, begun with SPDY/3's dictionary and flushed
//! after every block.

use std::sync::LazyLock;

use bytes::{Buf as _, BufMut as _, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::decode::{DecodeError, Limits};
use super::frame::Headers;

/// Words that begin the dictionary, each with its length before it (SPDY/3 draft, 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host \
if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status";
const PHRASES: [&str; 8] =
    ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
/// What follows them, without lengths.
const TAIL: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

/// The dictionary that both ends begin with.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split(' ').chain(PHRASES) {
        dictionary.put_u32(word.len() as u32);
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
});

/// How much is inflated between two looks at the bound.
const STEP: usize = 4096;

/// Reads the blocks of one direction, in order.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block. After an error the stream of blocks can't be read any further.
    pub(super) fn block(&mut self, input: &[u8], limits: &Limits) -> Result<Headers, DecodeError> {
        let plain = self.inflate(input, limits.header_block)?;
        parse(&plain, limits)
    }

    fn inflate(&mut self, mut input: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
        let mut plain = Vec::new();
        loop {
            // One byte beyond the limit tells a block that is too large from one that just fits.
            plain.reserve_exact(STEP.min(limit + 1 - plain.len()));
            let (read, written) = (self.0.total_in(), plain.len());
            let status = match self.0.decompress_vec(input, &mut plain, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| DecodeError::Compression)?;
                    Status::Ok
                }
                Err(_) => return Err(DecodeError::Compression),
            };
            let consumed = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            input = input.get(consumed..).ok_or(DecodeError::Compression)?;
            if plain.len() > limit {
                return Err(DecodeError::HeaderBlockTooLong);
            }
            if status == Status::StreamEnd && !input.is_empty() {
                return Err(DecodeError::Compression);
            }
            let full = plain.len() == plain.capacity();
            if input.is_empty() && !full {
                return Ok(plain);
            }
            if consumed == 0 && plain.len() == written && !full {
                return Err(DecodeError::Compression);
            }
        }
    }
}

fn parse(mut plain: &[u8], limits: &Limits) -> Result<Headers, DecodeError> {
    let count = plain.try_get_u32().map_err(|_| DecodeError::HeaderBlock)?;
    if usize::try_from(count).map_or(true, |count| count > limits.headers) {
        return Err(DecodeError::TooManyHeaders);
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?;
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(DecodeError::HeaderBlock);
        }
        let value = text(&mut plain)?;
        if headers.iter().any(|(known, _)| known == name) {
            return Err(DecodeError::HeaderBlock);
        }
        headers.push(name, value);
    }
    if plain.is_empty() { Ok(headers) } else { Err(DecodeError::HeaderBlock) }
}

/// A text with its length before it; the length is believed only as far as there are bytes.
fn text(plain: &mut &[u8]) -> Result<String, DecodeError> {
    let length = plain.try_get_u32().map_err(|_| DecodeError::HeaderBlock)?;
    let length = usize::try_from(length).map_err(|_| DecodeError::HeaderBlock)?;
    let (text, rest) = plain.split_at_checked(length).ok_or(DecodeError::HeaderBlock)?;
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| DecodeError::HeaderBlock)
}

/// Writes the blocks of one direction, in order.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // The state is fresh, which is all that this may fail for.
        let set = compress.set_dictionary(&DICTIONARY);
        debug_assert!(set.is_ok(), "{set:?}");
        Self(compress)
    }

    /// Appends the block of these headers.
    pub(super) fn block(&mut self, headers: &Headers, out: &mut BytesMut) {
        let mut plain = Vec::new();
        plain.put_u32(headers.iter().len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.extend_from_slice(text.as_bytes());
        }
        let mut input = &plain[..];
        let mut piece = Vec::with_capacity(STEP);
        loop {
            piece.clear();
            let read = self.0.total_in();
            let status = self.0.compress_vec(input, &mut piece, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "{status:?}");
            let consumed = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            input = input.get(consumed..).unwrap_or_default();
            out.extend_from_slice(&piece);
            // A full piece may have left something behind.
            if input.is_empty() && piece.len() < piece.capacity() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adler32(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_that_of_spdy_3() {
        assert_eq!((DICTIONARY.len(), adler32(&DICTIONARY)), (1423, 0xe3c6_a7c2));
    }

    fn streamtype(value: &str) -> Headers {
        Headers::new().with("streamtype", value)
    }

    #[test]
    fn blocks_share_one_compressed_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let mut sizes = Vec::new();
        for headers in [streamtype("error"), Headers::new(), streamtype("error"), streamtype("stdout")] {
            let mut block = BytesMut::new();
            deflater.block(&headers, &mut block);
            sizes.push(block.len());
            assert_eq!(inflater.block(&block, &Limits::default()), Ok(headers));
        }
        assert!(sizes[2] < sizes[0], "what was said before costs less: {sizes:?}");
    }

    #[test]
    fn a_block_is_inflated_up_to_its_bound_and_no_further() {
        let limits = Limits { header_block: 100_000, ..Limits::default() };
        let fits = Headers::new().with("a", &"x".repeat(100_000 - 4 - 4 - 1 - 4));
        let mut block = BytesMut::new();
        Deflater::new().block(&fits, &mut block);
        assert_eq!(Inflater::new().block(&block, &limits), Ok(fits));
        // A few thousand bytes that would be four megabytes.
        let bomb = Headers::new().with("a", &"x".repeat(4_000_000));
        let mut block = BytesMut::new();
        Deflater::new().block(&bomb, &mut block);
        assert_eq!(Inflater::new().block(&block, &limits), Err(DecodeError::HeaderBlockTooLong));
    }

    /// CVE-2026-35469: counts and lengths that were allocated for before a byte of them had come.
    #[test]
    fn counts_and_lengths_that_lie_are_refused() {
        let block = |plain: &[u8]| parse(plain, &Limits::default());
        assert_eq!(block(&[0xff; 4]), Err(DecodeError::TooManyHeaders));
        assert_eq!(block(&[0, 0, 0, 65]), Err(DecodeError::TooManyHeaders));
        assert_eq!(block(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(DecodeError::HeaderBlock));
        assert_eq!(
            block(&[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0x7f, 0xff, 0xff, 0xff]),
            Err(DecodeError::HeaderBlock)
        );
        assert_eq!(block(&[0, 0, 0]), Err(DecodeError::HeaderBlock));
    }

    #[test]
    fn what_is_no_header_block_is_refused() {
        let block = |plain: &[u8]| parse(plain, &Limits::default());
        let one = |name: &[u8], value: &[u8]| {
            let length = |text: &[u8]| u32::try_from(text.len()).unwrap().to_be_bytes();
            [&1_u32.to_be_bytes()[..], &length(name), name, &length(value), value].concat()
        };
        assert_eq!(block(&one(b"port", b"80")), Ok(Headers::new().with("port", "80")));
        assert_eq!(block(&one(b"", b"80")), Err(DecodeError::HeaderBlock));
        assert_eq!(block(&one(b"Port", b"80")), Err(DecodeError::HeaderBlock));
        assert_eq!(block(&one(b"port", b"\xff")), Err(DecodeError::HeaderBlock));
        let mut long = one(b"port", b"80");
        long.push(0);
        assert_eq!(block(&long), Err(DecodeError::HeaderBlock));
        let mut twice = one(b"port", b"80");
        twice[3] = 2;
        twice.extend_from_slice(&one(b"port", b"81")[4..]);
        assert_eq!(block(&twice), Err(DecodeError::HeaderBlock));
        assert_eq!(Inflater::new().block(b"not zlib", &Limits::default()), Err(DecodeError::Compression));
    }
}

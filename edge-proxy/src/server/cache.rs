//! Pages of the shop kept for a few seconds, so that a crowd that reloads a product page does not reach the shop.
//!
//! What is kept is what nobody could mind: answers of 200 to plain GETs without `Authorization`, without
//! `Set-Cookie`, that the shop does not forbid to keep (`Cache-Control`) and that vary by nothing but
//! `Accept-Encoding`. When a page gets old one request fetches it anew while the others still see the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use moka::sync::Cache as Store;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::config::{CacheConfig, CacheRule};
use crate::metrics;

/// What a page is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    https: bool,
    host: Vec<u8>,
    target: Vec<u8>,
    encodings: Vec<u8>,
}

/// A kept answer.
#[derive(Debug)]
pub struct Page {
    header: ResponseHeader,
    body: Bytes,
    kept: Instant,
    fresh: Duration,
    stale: Duration,
    /// Whether somebody is fetching it anew.
    fetching: AtomicBool,
}

/// All kept pages.
pub struct Cache {
    config: CacheConfig,
    pages: Store<Key, Arc<Page>>,
}

/// What to do with a request.
pub enum Found {
    /// No rule, or not of the kind that is kept.
    Nothing,
    /// Answer with this.
    Page(Arc<Page>),
    /// Ask the shop, and keep what it says if that may be kept.
    Fetch(Box<Fetch>),
}

/// An answer on its way through, which may become a page.
pub struct Fetch {
    key: Key,
    rule: CacheRule,
    page_bytes_max: usize,
    pages: Store<Key, Arc<Page>>,
    header: Option<ResponseHeader>,
    fresh: Duration,
    body: BytesMut,
    /// The page that is shown meanwhile.
    old: Option<Arc<Page>>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(old) = &self.old {
            old.fetching.store(false, Ordering::Release);
        }
    }
}

impl Cache {
    pub fn new(config: &CacheConfig) -> Self {
        let longest = config.rules.iter().map(|rule| rule.seconds + rule.stale_s).max().unwrap_or(1);
        let pages = Store::builder()
            .weigher(|key: &Key, page: &Arc<Page>| {
                let weight = key.target.len() + key.host.len() + page.body.len() + PAGE_OVERHEAD;
                u32::try_from(weight).unwrap_or(u32::MAX)
            })
            .max_capacity(config.bytes_max)
            .time_to_live(Duration::from_secs(longest))
            .build();
        Self { config: config.clone(), pages }
    }

    /// What there is for a request.
    pub fn find(&self, request: &RequestHeader, https: bool) -> Found {
        if self.config.rules.is_empty() {
            return Found::Nothing;
        }
        let Some(rule) = self.config.rule(request.uri.path()) else {
            return Found::Nothing;
        };
        if !is_plain(request, rule) {
            count("skip");
            return Found::Nothing;
        }
        let Some(key) = key(request, https) else {
            return Found::Nothing;
        };
        let old = match self.pages.get(&key) {
            Some(page) if page.kept.elapsed() < page.fresh => {
                count("hit");
                return Found::Page(page);
            }
            Some(page) if page.kept.elapsed() < page.fresh + page.stale => {
                if page.fetching.swap(true, Ordering::AcqRel) {
                    count("stale");
                    return Found::Page(page);
                }
                Some(page)
            }
            _ => None,
        };
        count("miss");
        Found::Fetch(Box::new(Fetch {
            key,
            rule: rule.clone(),
            page_bytes_max: self.config.page_bytes_max,
            pages: self.pages.clone(),
            header: None,
            fresh: Duration::ZERO,
            body: BytesMut::new(),
            old,
        }))
    }
}

/// About what a page costs beside its bytes.
const PAGE_OVERHEAD: usize = 512;

fn count(outcome: &str) {
    metrics::CACHE.with_label_values(&[outcome]).inc();
}

/// Whether the answer to a request may be everybody's.
fn is_plain(request: &RequestHeader, rule: &CacheRule) -> bool {
    const OWN: [http::HeaderName; 7] = [
        header::AUTHORIZATION,
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::UPGRADE,
    ];
    request.method == Method::GET
        && OWN.iter().all(|name| !request.headers.contains_key(name))
        && !request.headers.contains_key(header::CONTENT_LENGTH)
        && !request.headers.contains_key(header::TRANSFER_ENCODING)
        && (rule.ignore_cookies || !request.headers.contains_key(header::COOKIE))
}

fn key(request: &RequestHeader, https: bool) -> Option<Key> {
    let host = request.headers.get(header::HOST).map(|host| host.as_bytes().to_ascii_lowercase());
    let host = host.or_else(|| request.uri.authority().map(|host| host.as_str().to_ascii_lowercase().into_bytes()))?;
    let mut encodings: Vec<u8> = Vec::new();
    for value in request.headers.get_all(header::ACCEPT_ENCODING) {
        encodings.extend(value.as_bytes().iter().filter(|byte| !byte.is_ascii_whitespace()));
        encodings.push(b',');
    }
    encodings.make_ascii_lowercase();
    Some(Key { https, host, target: request.raw_path().to_vec(), encodings })
}

impl Fetch {
    /// Whether the shop is not to see cookies.
    pub fn hides_cookies(&self) -> bool {
        self.rule.ignore_cookies
    }

    /// The head of the shop's answer; `false` if it is not to be kept.
    pub fn head(&mut self, response: &ResponseHeader) -> bool {
        let Some(fresh) = lifetime(response, Duration::from_secs(self.rule.seconds)) else {
            return false;
        };
        self.fresh = fresh;
        self.header = Some(response.clone());
        true
    }

    /// A piece of its body; `false` if it has become too large.
    pub fn body(&mut self, piece: &[u8]) -> bool {
        if self.body.len() + piece.len() > self.page_bytes_max {
            return false;
        }
        self.body.extend_from_slice(piece);
        true
    }

    /// The answer is whole: keep it.
    pub fn finish(mut self) {
        let Some(mut header) = self.header.take() else {
            return;
        };
        let body = std::mem::take(&mut self.body).freeze();
        for name in ["connection", "keep-alive", "transfer-encoding", "trailer", "age"] {
            header.remove_header(name);
        }
        if header.insert_header(header::CONTENT_LENGTH, body.len()).is_err() {
            return;
        }
        let page = Page {
            header,
            body,
            kept: Instant::now(),
            fresh: self.fresh,
            stale: Duration::from_secs(self.rule.stale_s),
            fetching: AtomicBool::new(false),
        };
        self.pages.insert(self.key.clone(), Arc::new(page));
    }
}

/// How long an answer may be kept, at most `most`; `None`: not at all.
fn lifetime(response: &ResponseHeader, most: Duration) -> Option<Duration> {
    let headers = &response.headers;
    let forbidden = response.status != http::StatusCode::OK
        || headers.contains_key(header::SET_COOKIE)
        || headers.contains_key(header::CONTENT_RANGE)
        || !varies_by_encoding_only(headers);
    if forbidden {
        return None;
    }
    let (mut shared, mut own) = (None, None);
    for value in headers.get_all(header::CACHE_CONTROL) {
        // What cannot be read might forbid it.
        for directive in value.to_str().ok()?.to_ascii_lowercase().split(',') {
            let (name, seconds) = directive.split_once('=').unwrap_or((directive, ""));
            let seconds = || seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs);
            match name.trim() {
                "no-store" | "no-cache" | "private" => return None,
                "s-maxage" => shared = Some(seconds()?),
                "max-age" => own = Some(seconds()?),
                _ => {}
            }
        }
    }
    let fresh = shared.or(own).map_or(most, |said| said.min(most));
    (!fresh.is_zero()).then_some(fresh)
}

fn varies_by_encoding_only(headers: &HeaderMap) -> bool {
    headers.get_all(header::VARY).iter().all(|value| {
        value
            .to_str()
            .is_ok_and(|names| names.split(',').all(|name| name.trim().eq_ignore_ascii_case("accept-encoding")))
    })
}

impl Page {
    /// The head of the answer, with its age.
    ///
    /// # Errors
    /// None in practice: a number can stand in a header.
    pub fn header(&self) -> pingora::Result<ResponseHeader> {
        let mut header = self.header.clone();
        header.insert_header(header::AGE, self.kept.elapsed().as_secs())?;
        Ok(header)
    }

    pub fn body(&self) -> Bytes {
        self.body.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rules: &[CacheRule]) -> CacheConfig {
        CacheConfig { rules: rules.to_vec(), ..CacheConfig::default() }
    }

    fn rule() -> CacheRule {
        CacheRule { path: "/p/".to_owned(), seconds: 10, stale_s: 0, ignore_cookies: false }
    }

    fn get(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        request.insert_header("Host", "shop.example").unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn answer(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in headers {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    /// Whether an answer with these headers is kept, so that the next one is found.
    fn keeps(cache: &Cache, request: &RequestHeader, response: &ResponseHeader) -> bool {
        if let Found::Fetch(mut fetch) = cache.find(request, false)
            && fetch.head(response)
            && fetch.body(b"page")
        {
            fetch.finish();
        }
        matches!(cache.find(request, false), Found::Page(page) if page.body() == "page")
    }

    #[test]
    fn only_what_is_everybodys_is_kept() {
        let ok = answer(200, &[]);
        let kept = |request: RequestHeader, response: &ResponseHeader| {
            keeps(&Cache::new(&config(&[rule()])), &request, response)
        };
        assert!(kept(get("/p/1", &[]), &ok));
        assert!(kept(get("/p/1", &[]), &answer(200, &[("vary", "Accept-Encoding"), ("cache-control", "public")])));
        assert!(!kept(get("/other", &[]), &ok));
        for own in ["authorization", "cookie", "range", "if-none-match", "upgrade", "content-length"] {
            assert!(!kept(get("/p/1", &[(own, "1")]), &ok), "{own}");
        }
        let mut post = get("/p/1", &[]);
        post.set_method(Method::POST);
        assert!(!kept(post, &ok));
        assert!(!kept(get("/p/1", &[]), &answer(404, &[])));
        for (name, value) in [
            ("set-cookie", "a=b"),
            ("cache-control", "no-store"),
            ("cache-control", "max-age=60, Private"),
            ("cache-control", "no-cache"),
            ("cache-control", "max-age=0"),
            ("cache-control", "s-maxage=0, max-age=60"),
            ("cache-control", "max-age=soon"),
            ("vary", "*"),
            ("vary", "Cookie"),
            ("vary", "Accept-Encoding, User-Agent"),
        ] {
            assert!(!kept(get("/p/1", &[]), &answer(200, &[(name, value)])), "{name}: {value}");
        }
    }

    #[test]
    fn pages_are_told_apart() {
        let cache = Cache::new(&config(&[rule()]));
        assert!(keeps(&cache, &get("/p/1?a=b", &[]), &answer(200, &[])));
        let mut elsewhere = get("/p/1?a=b", &[]);
        elsewhere.insert_header("Host", "other.example").unwrap();
        for other in
            [get("/p/1", &[]), get("/p/1?a=c", &[]), get("/p/1?a=b", &[("accept-encoding", "gzip")]), elsewhere]
        {
            assert!(matches!(cache.find(&other, false), Found::Fetch(_)));
        }
        assert!(matches!(cache.find(&get("/p/1?a=b", &[]), true), Found::Fetch(_)), "https may show something else");
    }

    #[test]
    fn an_old_page_is_fetched_by_one_and_shown_to_the_others() {
        let cache = Cache::new(&config(&[CacheRule { seconds: 10, stale_s: 60, ..rule() }]));
        let request = get("/p/1", &[]);
        // The shop says less than the rule allows.
        assert!(keeps(&cache, &request, &answer(200, &[("cache-control", "max-age=1")])));
        std::thread::sleep(Duration::from_millis(1100));
        let Found::Fetch(fetch) = cache.find(&request, false) else {
            panic!("it is old");
        };
        assert!(matches!(cache.find(&request, false), Found::Page(_)), "somebody is fetching it");
        drop(fetch);
        assert!(matches!(cache.find(&request, false), Found::Fetch(_)), "that came to nothing: the next one tries");
    }

    #[test]
    fn too_large_a_page_is_not_kept() {
        let cache = Cache::new(&CacheConfig { page_bytes_max: 3, ..config(&[rule()]) });
        assert!(!keeps(&cache, &get("/p/1", &[]), &answer(200, &[])));
    }

    #[test]
    fn the_longest_rule_counts() {
        let longer = CacheRule { path: "/p/x/".to_owned(), seconds: 99, ..rule() };
        let config = config(&[rule(), longer.clone()]);
        assert_eq!(config.rule("/p/x/1"), Some(&longer));
        assert_eq!(config.rule("/p/y"), Some(&rule()));
        assert_eq!(config.rule("/"), None);
    }
}

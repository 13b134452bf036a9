//! Whom the edge believes: keys of every kind, key sets from files and URLs, and keys that change.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flashsale_tests::http::{Answer, Http};
use flashsale_tests::token::{KEY_PAIRS, KeyPair, claims, unix_seconds};
use flashsale_tests::{Proxy, ProxyBuilder, RedisServer, Server, Site, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct Scene {
    _redis: RedisServer,
    proxy: Proxy,
    http: Http,
}

impl Scene {
    fn with(settings: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Scene {
        let redis = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 100000");
        let proxy = settings(Proxy::builder().redis(&redis)).start();
        Scene { _redis: redis, proxy, http: Http::new() }
    }

    fn reserve(&self, name: &str, value: &str) -> Answer {
        self.http.request("POST", &self.proxy.url("/flash/s/holds?sku=shirt"), &[(name, value)], b"")
    }

    fn bearer(&self, bearer: &str) -> u16 {
        self.reserve("authorization", bearer).status
    }
}

fn set_of(keys: &[(KeyPair, &str)]) -> String {
    let keys: Vec<Value> = keys.iter().map(|(pair, kid)| pair.jwk(kid)).collect();
    json!({ "keys": keys }).to_string()
}

#[test]
fn public_keys_in_pem_are_believed_and_each_token_is_verified_once() {
    let keys: Vec<String> = KEY_PAIRS
        .iter()
        .map(|pair| {
            let name = format!("{:?}", pair.algorithm);
            format!("{{ algorithm = \"{name}\", public_key_file = \"{name}.pem\" }}")
        })
        .collect();
    let scene = Scene::with(|proxy| {
        let proxy = proxy.set("tokens.keys", &format!("[{}]", keys.join(", ")));
        let files = KEY_PAIRS.iter().map(|pair| (format!("{:?}.pem", pair.algorithm), pair.public_pem));
        files.fold(proxy, |proxy, (name, pem)| proxy.file(&name, pem))
    });
    for pair in KEY_PAIRS {
        let bearer = pair.bearer(&claims("ann"), None);
        for _ in 0..5 {
            assert_eq!(scene.bearer(&bearer), 201, "{:?}", pair.algorithm);
        }
        // One letter of the signature is another: nothing that was remembered makes up for it.
        let mut forged = bearer.clone().into_bytes();
        let place = forged.len() - 10;
        forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
        let refused = scene.reserve("authorization", &String::from_utf8(forged).expect("ASCII"));
        assert_eq!((refused.status, refused.problem().as_str()), (401, "token"));
        let expired = pair.bearer(&json!({"sub": "ann", "exp": unix_seconds() - 60}), None);
        assert_eq!(scene.bearer(&expired), 401);
    }
    assert_eq!(scene.proxy.metric("flashsale_tokens_verified_total", &["good"]), 3.0);
    assert_eq!(scene.proxy.metric("flashsale_tokens_verified_total", &["remembered"]), 12.0);
    assert_eq!(scene.proxy.metric("flashsale_tokens_verified_total", &["bad"]), 6.0);
}

#[test]
fn what_is_remembered_expires_with_the_token() {
    let pair = KEY_PAIRS[2];
    let scene = Scene::with(|proxy| {
        proxy
            .file("key.pem", pair.public_pem)
            .set("tokens.keys", "[{ algorithm = \"EdDSA\", public_key_file = \"key.pem\" }]")
            .set("tokens.leeway_s", "0")
    });
    let bearer = pair.bearer(&json!({"sub": "ann", "exp": unix_seconds() + 3}), None);
    assert_eq!(scene.bearer(&bearer), 201);
    wait_until("the token has expired", SOON, || scene.bearer(&bearer) == 401);
}

#[test]
fn a_key_set_in_a_file_is_read_again() {
    let [rsa, ec, ed] = KEY_PAIRS;
    let scene = Scene::with(|proxy| {
        proxy
            .file("keys.json", &set_of(&[(rsa, "r"), (ec, "e")]))
            .set("tokens.keys", "[]")
            .set("tokens.jwks", "[{ file = \"keys.json\", refresh_s = 1 }]")
    });
    assert_eq!(scene.bearer(&rsa.bearer(&claims("ann"), Some("r"))), 201);
    assert_eq!(scene.bearer(&ec.bearer(&claims("ann"), Some("e"))), 201);
    assert_eq!(scene.bearer(&ec.bearer(&claims("ann"), Some("r"))), 401, "another key's id");
    assert_eq!(scene.bearer(&ec.bearer(&claims("ann"), None)), 401, "no id");
    let new = ed.bearer(&claims("ann"), Some("d"));
    assert_eq!(scene.bearer(&new), 401);
    let old = rsa.bearer(&claims("ann"), Some("r"));
    let file = scene.proxy.addresses().dir.join("keys.json");
    std::fs::write(&file, set_of(&[(ed, "d")])).expect("the file can be written");
    wait_until("the new key is believed", SOON, || scene.bearer(&new) == 201);
    assert_eq!(scene.bearer(&old), 401, "a key that was withdrawn is worth nothing, verified before or not");
    // A file that is broken, or gone, leaves the last keys in force.
    std::fs::write(&file, "half a fi").expect("the file can be written");
    wait_until("it is read", SOON, || scene.proxy.metric("flashsale_jwks_refreshes_total", &["error"]) > 0.0);
    assert_eq!(scene.bearer(&new), 201);
}

#[test]
fn a_key_set_at_a_url_follows_its_keys_and_is_not_fetched_for_nothing() {
    let [_, ec, ed] = KEY_PAIRS;
    let set = Arc::new(Mutex::new(String::from("not yet")));
    let answer = Arc::clone(&set);
    let site = Site::start(move |_, _| (200, answer.lock().expect("no panic").clone()));
    let jwks = format!("[{{ url = \"{}\", refresh_s = 3600, unknown_kid_s = 1 }}]", site.url("/keys"));
    let scene = Scene::with(|proxy| {
        proxy.set("tokens.keys", "[]").set("tokens.jwks", &jwks).set("tokens.cookie", "\"session\"")
    });
    let first = ec.bearer(&claims("ann"), Some("1"));
    let early = scene.reserve("authorization", &first);
    assert_eq!((early.status, early.problem().as_str()), (503, "overloaded"), "{}", early.text());
    *set.lock().expect("no panic") = set_of(&[(ec, "1")]);
    wait_until("the keys are fetched after all", SOON, || scene.bearer(&first) == 201);
    let cookie = first.replace("Bearer ", "a=b; session=");
    assert_eq!(scene.reserve("cookie", &cookie).status, 201);

    // The provider has a new key; the first token that names it makes the edge look.
    *set.lock().expect("no panic") = set_of(&[(ec, "1"), (ed, "2")]);
    let second = ed.bearer(&claims("ann"), Some("2"));
    wait_until("the new key is believed", SOON, || scene.bearer(&second) == 201);

    // A crowd of made-up key ids costs a fetch a second at most, and one id again and again none.
    let before = site.requests();
    let began = std::time::Instant::now();
    for number in 0..300 {
        assert_eq!(scene.bearer(&ed.bearer(&claims("eve"), Some(&format!("made up {number}")))), 401);
    }
    let most = began.elapsed().as_secs() as usize + 2;
    let fetched = site.requests() - before;
    assert!(fetched <= most, "{fetched} fetches");
    assert_eq!(scene.bearer(&first), 201);

    // A reload begins with the keys that were there, even if the provider is away just then.
    *set.lock().expect("no panic") = String::from("not now");
    let reloaded = scene.http.request("POST", &scene.proxy.admin_url("/api/reload"), &[], b"");
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!((scene.bearer(&first), scene.bearer(&second)), (201, 201));
}

#[test]
fn a_key_set_that_cannot_be_used_is_named_before_the_start() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let started = std::panic::catch_unwind(|| {
        Proxy::builder().redis(&redis).set("tokens.jwks", "[{ file = \"no such file.json\" }]").start()
    });
    let message = started.err().and_then(|panic| panic.downcast::<String>().ok()).expect("it does not start");
    assert!(message.contains("no such file.json"), "{message}");
}

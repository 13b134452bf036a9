use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use altcha::{Payload, SolveChallengeOptions, solve_challenge};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::store::redis::unix_ms;
use crate::store::{Called, Command, HoldView, SaleView, StoreError};

fn secret_file(secret: &str) -> PathBuf {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, secret.as_bytes()).unwrap();
    file.into_temp_path().keep().unwrap()
}

fn config(kind: &str, more: &str) -> ChallengeConfig {
    let mut config: ChallengeConfig = toml::from_str(&format!("kind = \"{kind}\"\nzeros = 1\n{more}")).unwrap();
    config.secret_file = Some(secret_file("a secret that is long enough for this"));
    config
}

/// Remembers names for all who share it, or is away.
#[derive(Default)]
struct Notebook {
    names: Mutex<HashSet<Vec<u8>>>,
    away: AtomicBool,
}

#[async_trait]
impl SaleStore for Notebook {
    async fn call(&self, _: &[u8], _: &Command) -> Result<Called, StoreError> {
        Err(StoreError::NoSale)
    }

    async fn hold(&self, _: &[u8], _: &[u8], _: Option<&[u8]>) -> Result<Option<HoldView>, StoreError> {
        Err(StoreError::NoSale)
    }

    async fn sale(&self, _: &[u8]) -> Result<(SaleView, i64), StoreError> {
        Err(StoreError::NoSale)
    }

    async fn keys(&self, _: &[u8], _: usize) -> Result<Vec<Bytes>, StoreError> {
        Ok(Vec::new())
    }

    async fn once(&self, key: &[u8], _: Duration) -> Result<bool, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Down("away".to_owned()));
        }
        Ok(self.names.lock().unwrap().insert(key.to_vec()))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn at_a_proxy(notebook: &Arc<Notebook>, config: &ChallengeConfig) -> Challenges {
    Challenges::new(std::slice::from_ref(config), Arc::default(), notebook.clone()).unwrap()
}

#[tokio::test]
async fn a_solution_is_good_at_one_of_several_proxies() {
    let (notebook, config) = (Arc::new(Notebook::default()), config("altcha", ""));
    let (first, second) = (at_a_proxy(&notebook, &config), at_a_proxy(&notebook, &config));
    let anna = applicant("s", "anna");
    let solution = sent(&solved(&asked(&first, &anna).await));
    second.demand(&anna, Some(&solution)).await.unwrap();
    let again = first.demand(&anna, Some(&solution)).await.unwrap_err();
    assert!(again.detail.unwrap().contains("used before"));
}

#[tokio::test]
async fn while_nobody_can_say_what_was_used_solutions_wait_or_are_let_in() {
    let notebook = Arc::new(Notebook::default());
    let closed = config("altcha", "");
    let open = ChallengeConfig { open_when_down: true, ..closed.clone() };
    let (closed, open) = (at_a_proxy(&notebook, &closed), at_a_proxy(&notebook, &open));
    let anna = applicant("s", "anna");
    let (one, other) = (sent(&solved(&asked(&closed, &anna).await)), sent(&solved(&asked(&open, &anna).await)));
    notebook.away.store(true, Ordering::Relaxed);
    assert_eq!(closed.demand(&anna, Some(&one)).await.unwrap_err().problem, Problem::Overloaded);
    open.demand(&anna, Some(&other)).await.unwrap();
    notebook.away.store(false, Ordering::Relaxed);
    closed.demand(&anna, Some(&one)).await.unwrap();
}

fn challenges(configs: &[ChallengeConfig]) -> Challenges {
    configs.iter().for_each(|config| config.validate().unwrap());
    Challenges::new(configs, Arc::default(), Arc::new(Notebook::default())).unwrap()
}

fn applicant<'a>(sale: &'a str, buyer: &'a str) -> Applicant<'a> {
    Applicant {
        sale: sale.as_bytes(),
        buyer: buyer.as_bytes(),
        address: IpAddr::from([192, 0, 2, 1]),
        now_ms: unix_ms(),
    }
}

async fn asked(challenges: &Challenges, applicant: &Applicant<'_>) -> Value {
    let refusal = challenges.demand(applicant, None).await.unwrap_err();
    assert_eq!((refusal.status, refusal.problem), (403, Problem::Challenge));
    assert_eq!(member(&refusal, "kind"), "altcha");
    member(&refusal, "challenge").clone()
}

fn member<'a>(refusal: &'a Refusal, name: &str) -> &'a Value {
    &refusal.members.iter().find(|(other, _)| *other == name).expect("it is there").1
}

fn solved(challenge: &Value) -> Value {
    let challenge: altcha::Challenge = serde_json::from_value(challenge.clone()).unwrap();
    let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
    serde_json::to_value(Payload { challenge, solution }).unwrap()
}

fn sent(payload: &Value) -> String {
    STANDARD.encode(payload.to_string())
}

#[tokio::test]
async fn work_lets_in_once_and_only_whom_it_is_for() {
    let challenges = challenges(&[config("altcha", "")]);
    let anna = applicant("s", "anna");
    let solution = sent(&solved(&asked(&challenges, &anna).await));
    for other in [applicant("s", "bert"), applicant("t", "anna"), applicant("sa", "nna")] {
        let refusal = challenges.demand(&other, Some(&solution)).await.unwrap_err();
        assert_eq!(refusal.problem, Problem::Challenge);
    }
    challenges.demand(&anna, Some(&solution)).await.unwrap();
    let again = challenges.demand(&anna, Some(&solution)).await.unwrap_err();
    assert!(again.detail.as_ref().unwrap().contains("used before"));
    // The refusal brings the next one along.
    let next = sent(&solved(member(&again, "challenge")));
    challenges.demand(&anna, Some(&next)).await.unwrap();
}

#[tokio::test]
async fn what_was_not_worked_for_is_refused() {
    let challenges = challenges(&[config("altcha", "")].map(|mut config| {
        config.zeros = 2;
        config
    }));
    let anna = applicant("s", "anna");
    let good = solved(&asked(&challenges, &anna).await);
    let change = |place: &[&str], value: Value| {
        let mut payload = good.clone();
        let member = place.iter().fold(&mut payload, |value, name| &mut value[*name]);
        *member = value;
        sent(&payload)
    };
    for broken in [
        String::new(),
        "!".to_owned(),
        sent(&json!({})),
        sent(&json!([])),
        STANDARD.encode([0xff; 400]),
        change(&["solution", "counter"], json!(u32::MAX)),
        change(&["solution", "derivedKey"], json!("00")),
        change(&["challenge", "parameters", "keyPrefix"], json!("")),
        change(&["challenge", "parameters", "cost"], json!(1)),
        change(&["challenge", "parameters", "cost"], json!(4_000_000_000_u32)),
        change(&["challenge", "parameters", "expiresAt"], json!(9_999_999_999_u64)),
        change(&["challenge", "parameters", "expiresAt"], json!(0)),
        change(&["challenge", "parameters", "expiresAt"], Value::Null),
        change(&["challenge", "parameters", "nonce"], json!("00")),
        change(&["challenge", "signature"], Value::Null),
        change(&["challenge", "signature"], json!("00")),
        change(&["challenge", "parameters", "data"], Value::Null),
    ] {
        let refusal = challenges.demand(&anna, Some(&broken)).await.unwrap_err();
        assert_eq!(refusal.problem, Problem::Challenge, "{broken}");
    }
    challenges.demand(&anna, Some(&sent(&good))).await.unwrap();
}

#[tokio::test]
async fn a_challenge_ends() {
    let challenges = challenges(&[config("altcha", "ttl_s = 1")]);
    let mut anna = applicant("s", "anna");
    anna.now_ms -= 10_000;
    let solution = sent(&solved(&asked(&challenges, &anna).await));
    let late = challenges.demand(&anna, Some(&solution)).await.unwrap_err();
    assert!(late.detail.unwrap().contains("expired"));
}

#[tokio::test]
async fn sales_have_their_own() {
    let mut shadow = config("altcha", "sales = [\"try\"]");
    shadow.mode = Mode::Shadow;
    let mut off = config("altcha", "sales = [\"free-*\"]");
    off.mode = Mode::Off;
    let challenges = challenges(&[shadow, off, config("altcha", "sales = [\"drop\", \"hot-*\"]")]);
    for (sale, free) in
        [("try", true), ("free-1", true), ("other", true), ("dropx", true), ("drop", false), ("hot-7", false)]
    {
        assert_eq!(challenges.demand(&applicant(sale, "anna"), None).await.is_ok(), free, "{sale}");
    }
}

#[test]
fn configs_that_make_no_sense_are_refused() {
    let error = |config: ChallengeConfig| format!("{:#}", config.validate().unwrap_err());
    assert!(error(ChallengeConfig { cost: 0, ..config("altcha", "") }).contains("cost"));
    assert!(error(ChallengeConfig { zeros: 9, ..config("altcha", "") }).contains("zeros"));
    assert!(error(ChallengeConfig { secret_file: None, ..config("turnstile", "") }).contains("secret_file"));
    let short = Some(secret_file("short"));
    assert!(error(ChallengeConfig { secret_file: short, ..config("altcha", "") }).contains("guessed"));
    assert!(error(config("hcaptcha", "url = \"ftp://x\"")).contains("https://"));
    assert!(toml::from_str::<ChallengeConfig>("kind = \"riddle\"").is_err());
}

use altcha::{Payload, SolveChallengeOptions, solve_challenge};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::store::redis::unix_ms;

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

fn challenges(configs: &[ChallengeConfig]) -> Challenges {
    configs.iter().for_each(|config| config.validate().unwrap());
    Challenges::new(configs, Arc::default()).unwrap()
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
    assert_eq!(refusal.members["kind"], "altcha");
    refusal.members["challenge"].clone()
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
    assert!(again.detail.unwrap().contains("used before"));
    // The refusal brings the next one along.
    let next = sent(&solved(&again.members["challenge"]));
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

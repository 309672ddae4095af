//! Builds follow from changed inputs only, and rings exist only for signing secrets.

use super::*;

/// An auth whose builder takes the ring of each key in `rings`.
fn counting(
    memory: &MemoryProvider,
    rings: &'static [&'static str],
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> (LazyAuth<Vec<KeyRing>>, Arc<AtomicUsize>) {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "the builder takes the rings")]
    struct Secrets {
        db_password: SecretString,
        smtp_password: Option<SecretString>,
        jwt_secret: Option<SecretString>,
    }
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let resolver = Resolver::builder(memory.clone()).ttl(secs(10)).build();
    let builder = LazyAuth::builder(resolver)
        .mode(Mode::Production)
        .activation_delay(secs(10))
        .grace_period(secs(60));
    let auth = settings(builder).build(move |_: Secrets, context: BuildContext| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let rings = rings.iter().map(|key| context.key_ring(key));
            Ok(rings.collect::<Result<Vec<_>, _>>()?)
        }
    });
    (auth, builds)
}

fn long(text: &str) -> String {
    format!("{text}: thirty-two bytes or more of a secret")
}

#[tokio::test(start_paused = true)]
async fn builder_without_a_ring_is_built_once_per_rotation() {
    let memory = MemoryProvider::from_iter([("db_password", "p1"), ("smtp_password", "s1")]);
    let (auth, builds) = counting(&memory, &[], |builder| builder);
    auth.get().await.unwrap();
    let count = || builds.load(Ordering::SeqCst);
    assert_eq!(count(), 1);
    for (step, secrets) in [
        vec![("db_password", "p2")],
        vec![("db_password", "p3"), ("smtp_password", "s3")],
        vec![("db_password", "p2")], // a value from before
    ]
    .into_iter()
    .enumerate()
    {
        for (key, value) in secrets {
            memory.set(key, value).unwrap();
        }
        pass(secs(500)).await;
        assert_eq!(count(), step + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn ring_of_one_key_causes_no_builds_for_rotations_of_another() {
    let memory = MemoryProvider::from_iter([("db_password", "p1"), ("jwt_secret", &*long("a"))]);
    let (auth, builds) = counting(&memory, &["jwt_secret"], |builder| builder);
    auth.get().await.unwrap();
    memory.set("db_password", "p2").unwrap();
    pass(secs(500)).await;
    assert_eq!(builds.load(Ordering::SeqCst), 2);
    memory.set("jwt_secret", long("b")).unwrap();
    pass(secs(500)).await;
    // At once, after the activation delay, and at the end of the grace period.
    assert_eq!(builds.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn password_that_rotates_often_is_not_kept() {
    let memory = MemoryProvider::from_iter([("db_password", "p0"), ("jwt_secret", &*long("a"))]);
    let (auth, builds) = counting(&memory, &["jwt_secret"], |builder| {
        builder.grace_period(Duration::MAX)
    });
    auth.get().await.unwrap();
    for number in 1..=1000 {
        memory.set("db_password", format!("p{number}")).unwrap();
        pass(secs(1)).await;
    }
    let after = builds.load(Ordering::SeqCst);
    assert!(after <= 1001, "{after} builds");
    pass(secs(1000)).await;
    assert_eq!(builds.load(Ordering::SeqCst), after);
    assert_eq!(auth.get().await.unwrap()[0].iter().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn number_of_previous_secrets_is_bounded_although_they_never_expire() {
    for (max_previous, expected) in [(None, 20), (Some(2), 3), (Some(0), 1)] {
        let memory = MemoryProvider::from_iter([("db_password", "p"), ("jwt_secret", &*long("0"))]);
        let (auth, _) = counting(&memory, &["jwt_secret"], |builder| {
            let builder = builder.grace_period(Duration::MAX);
            match max_previous {
                Some(max_previous) => builder.max_previous(max_previous),
                None => builder,
            }
        });
        auth.get().await.unwrap();
        for number in 1..20 {
            memory.set("jwt_secret", long(&number.to_string())).unwrap();
            pass(secs(15)).await;
        }
        let ring = auth.get().await.unwrap()[0].clone();
        assert_eq!(ring.iter().len(), expected);
        assert_eq!(ring.primary().expose_text().unwrap(), long("19"));
    }
}

#[tokio::test(start_paused = true)]
async fn only_signing_secrets_must_be_strong() {
    for (rings, named, weak_key) in [
        (&[][..], None, None),
        (&["jwt_secret"][..], None, Some("jwt_secret")),
        (&[][..], Some("jwt_secret"), Some("jwt_secret")),
        (&["db_password"][..], None, Some("db_password")),
    ] {
        let memory =
            MemoryProvider::from_iter([("db_password", "hunter2"), ("jwt_secret", "weak")]);
        for mode in [Mode::Production, Mode::Development] {
            let log = CanaryLog::install();
            let (auth, _) = counting(&memory, rings, |builder| {
                let builder = builder.mode(mode);
                match named {
                    Some(key) => builder.signing([key]).unwrap(),
                    None => builder,
                }
            });
            let result = auth.get().await;
            let failing = weak_key.filter(|_| mode == Mode::Production);
            assert_eq!(result.is_err(), failing.is_some(), "{rings:?} {named:?}");
            if let (Err(failure), Some(key)) = (result, failing) {
                let problem = &failure.problems()[0];
                assert_eq!(problem.key().unwrap().as_str(), key);
                assert!(problem.to_string().contains("too weak"), "{problem}");
            }
            let warnings = log.lines_with("event=weak_secret_accepted").len();
            let accepted = weak_key.filter(|_| mode == Mode::Development);
            assert_eq!(warnings, usize::from(accepted.is_some()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closure_cannot_ignore_that_a_signing_secret_is_weak() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", "weak")]);
    let auth = LazyAuth::builder(Resolver::new(memory))
        .secret_policy("OTHER", SecretPolicy::Unchecked)
        .unwrap()
        .build(|_: Secrets, context: BuildContext| async move {
            Ok(context.key_ring("AUTH_SECRET").ok())
        });
    let failure = auth.get().await.err().unwrap();
    assert!(failure.to_string().contains("too weak"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn ring_of_a_key_that_was_not_requested_before_has_the_activation_delay() {
    /// Takes the ring of the JWT secret as soon as the password is `sign`.
    #[derive(Deserialize)]
    struct Secrets {
        db_password: SecretString,
        #[expect(dead_code, reason = "the builder takes the ring")]
        jwt_secret: SecretString,
    }
    let memory = MemoryProvider::from_iter([("db_password", "p"), ("jwt_secret", &*long("a"))]);
    let auth = LazyAuth::builder(Resolver::new(memory.clone()))
        .activation_delay(secs(100))
        .build(|secrets: Secrets, context: BuildContext| async move {
            match secrets.db_password.expose_secret() {
                "sign" => Ok(Some(context.key_ring("jwt_secret")?)),
                _ => Ok::<_, BuildError>(None),
            }
        });
    auth.get().await.unwrap();
    memory.set("jwt_secret", long("b")).unwrap();
    pass(secs(10)).await;
    memory.set("db_password", "sign").unwrap();
    pass(secs(10)).await;
    let ring = auth.get().await.unwrap().clone().unwrap();
    assert_eq!(
        ring_text(&ring),
        (long("b"), long("b")),
        "the only known secret"
    );
    memory.set("jwt_secret", long("c")).unwrap();
    pass(secs(10)).await;
    let ring = auth.get().await.unwrap().clone().unwrap();
    let all = format!("{},{}", long("c"), long("b"));
    assert_eq!(ring_text(&ring).1, all);
}

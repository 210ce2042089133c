"""A replica that is down gets no calls; one question at a time finds out when it is back."""

from assay.circuit_breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_REST_S, UNANSWERED_CALLS, CircuitBreaker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_one_refusal_opens_it_and_an_answer_to_the_probe_closes_it() -> None:
    breaker = CircuitBreaker()
    assert breaker.admits
    breaker.failed()
    assert breaker.is_open
    assert not breaker.admits
    breaker.close()
    assert breaker.admits


def test_pauses_double_to_a_bound_and_a_score_resets_them() -> None:
    breaker = CircuitBreaker()
    breaker.failed()
    longest = FIRST_PAUSE_S
    for _ in range(12):
        assert longest / 2 <= breaker.pause_s <= longest
        breaker.probe_failed()
        longest = min(2 * longest, LONGEST_PAUSE_S)
    assert longest == LONGEST_PAUSE_S
    breaker.close()  # it lives, but has not scored yet: the next failure goes on from there
    breaker.failed()
    assert breaker.pause_s >= LONGEST_PAUSE_S / 2
    breaker.close()
    breaker.answered()
    breaker.failed()
    assert breaker.pause_s <= FIRST_PAUSE_S


def test_calls_that_fail_together_count_once() -> None:
    breaker = CircuitBreaker()
    for _ in range(50):
        breaker.failed()
    assert breaker.pause_s <= FIRST_PAUSE_S


def test_only_unanswered_calls_in_a_row_open_it() -> None:
    breaker = CircuitBreaker()
    for _ in range(5):
        for _ in range(UNANSWERED_CALLS - 1):
            breaker.unanswered()
        breaker.answered()
    assert not breaker.is_open
    for _ in range(UNANSWERED_CALLS):
        breaker.unanswered()
    assert breaker.is_open


def test_a_replica_that_asks_for_rest_gets_it_and_no_more() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    breaker.rest(2.0)
    assert 2.0 <= breaker.rest_s <= 3.0
    before = breaker.rest_s
    breaker.rest(2.0)  # refused together with the first
    assert breaker.rest_s == before
    assert not breaker.admits
    assert not breaker.is_open
    clock.now_s += 3.0
    assert breaker.admits


def test_a_replica_that_fails_for_days_is_still_asked() -> None:
    breaker = CircuitBreaker()
    for _ in range(1100):  # it lives, and refuses each call
        breaker.failed()
        breaker.close()
    assert LONGEST_PAUSE_S / 2 <= breaker.pause_s <= LONGEST_PAUSE_S


def test_nobody_rests_for_an_hour() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    breaker.rest(3600.0)
    assert LONGEST_REST_S <= breaker.rest_s <= 1.5 * LONGEST_REST_S

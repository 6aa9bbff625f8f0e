"""How an AP decides: its policy, its Double DQN, what it observes and forecasts."""

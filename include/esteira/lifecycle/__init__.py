"""What a model's life is: events, the state that they come to, the policy, and the next action. No input, no output."""
